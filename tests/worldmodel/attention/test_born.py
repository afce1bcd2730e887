"""Qubits: overlaps of amplitude-encoded states, and three forms of one attention."""

import numpy as np
import pennylane as qml
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from qdreamer.worldmodel.attention import born_forms
from qdreamer.worldmodel.attention.born import Born
from qdreamer.worldmodel.attention.born_forms import Steps
from qdreamer.worldmodel.attention.encodings import ComplexAmplitudes, RealAmplitudes
from qdreamer.worldmodel.attention.kernel import segment_causal, segment_ids
from qdreamer.worldmodel.attention.rotary import rotate

seeds = st.integers(0, 2**31)


def embedded(x, qubits):
    """PennyLane's amplitude embedding of a vector, as a state."""
    device = qml.device("default.qubit", wires=qubits)

    @qml.qnode(device)
    def circuit():
        qml.AmplitudeEmbedding(x, wires=range(qubits), normalize=True)
        return qml.state()

    return torch.as_tensor(circuit())


@pytest.mark.parametrize("complex", [False, True])
@pytest.mark.parametrize("rotary", [False, True])
def test_weights_equal_overlaps_of_pennylane_states(heads_of, complex, rotary):
    q, k, v = heads_of(0, 4, batch=1, width=8)
    if rotary:
        q, k = (rotate(x, torch.arange(4)) for x in (q, k))
    vectors = [torch.complex(*x.chunk(2, -1)) if complex else x for x in (q, k)]
    query, key = (
        torch.stack([embedded(row.numpy(), 2 if complex else 3) for row in x.flatten(0, 2)]).view(1, 2, 4, -1)
        for x in vectors
    )
    overlaps = (query.conj() @ key.mT).abs().square()
    kind = Born(2, 8, floor=0.02, complex=complex)
    kernel = overlaps + 0.02
    assert_close(kind.overlaps(kind.encode(q), kind.encode(k)), overlaps, rtol=0.0, atol=1e-6)
    expected = kernel / kernel.sum(-1, keepdim=True)
    assert_close(kind.weights(q, k), expected, rtol=0.0, atol=1e-6)
    assert_close(kind.attend(q, k, v), expected @ v, rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("encoding", [RealAmplitudes, ComplexAmplitudes])
@pytest.mark.parametrize("width", [1, 2, 3, 6, 8, 16])
@given(seed=seeds)
@settings(max_examples=5)
def test_features_give_the_overlaps(encoding, width, seed):
    if encoding is ComplexAmplitudes and width % 2:
        with pytest.raises(ValueError, match="even head width"):
            encoding(width, 0.0)
        return
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(5, width, generator=generator, dtype=torch.float64) for _ in range(2))
    maps, floored_maps = encoding(width, 0.0), encoding(width, 0.3)
    features = maps.features(x.mT)  # (φ, 5)
    assert features.shape == (maps.size, 5)
    state = maps.features(y.mT).unsqueeze(-1)  # (φ, 5, 1): a state for each key
    read = torch.stack([maps.read(features, one)[:, 0] for one in state.unbind(1)], -1)
    assert_close(read, maps.overlaps(x, y))
    floored = torch.stack([floored_maps.read(features, one)[:, 0] for one in state.unbind(1)], -1)
    assert_close(floored, maps.overlaps(x, y) + 0.3 * y.square().sum(-1))


def test_features_are_about_half_or_a_quarter_of_the_squares():
    assert [RealAmplitudes(d, 0.0).size for d in (8, 16, 64)] == [40, 144, 2112]
    assert [ComplexAmplitudes(d, 0.0).size for d in (8, 16, 64)] == [16, 64, 1024]


def test_the_floor_is_a_depolarizing_channel_on_the_query():
    """E(ρ) = (1 − p)ρ + p·1/d; its overlap with a pure key is (1 − p)(|⟨q|k⟩|² + f), f = p/(d(1 − p))."""
    p = 0.1
    x, y = (v / v.norm() for v in torch.randn(2, 2, generator=torch.Generator().manual_seed(0)).double())
    kraus = torch.as_tensor(np.stack(qml.DepolarizingChannel.compute_kraus_matrices(0.75 * p)))
    noisy = (kraus @ torch.outer(x, x).to(kraus.dtype) @ kraus.mH).sum(0)
    overlap = (y.to(kraus.dtype) @ noisy @ y.to(kraus.dtype)).real
    kernel = Born(1, 2, floor=p / (2 * (1 - p))).scores(x.view(1, 1, 1, 2), y.view(1, 1, 1, 2)).exp()
    assert_close(overlap, (1 - p) * kernel.squeeze())


class Case:
    """Random heads with resets, decay and rotary phases."""

    def __init__(self, heads_of, seed, steps, dtype, complex, reset_rate=0.08, width=8):
        q, k, self.v = heads_of(seed, steps, dtype=dtype, width=width)
        positions = torch.arange(steps)
        self.q, self.k = rotate(q, positions), rotate(k, positions)
        generator = torch.Generator().manual_seed(seed)
        self.is_first = (torch.rand(2, steps, generator=generator) < reset_rate).to(dtype)
        self.segments = segment_ids(self.is_first)
        gates = torch.randn(2, 2, steps, generator=generator, dtype=torch.float64).to(dtype) + 1.5
        self.log_decay = torch.nn.functional.logsigmoid(gates)
        self.kind = Born(2, width, floor=1e-3, complex=complex)

    def parallel(self):
        bias = torch.zeros(2, 2, self.q.shape[2], self.q.shape[2], dtype=torch.float64)
        for m in range(self.q.shape[2]):
            bias[:, :, m + 1 :, m] = self.log_decay[:, :, m + 1 :].double().cumsum(-1)
        mask = segment_causal(self.segments)
        return self.kind.attend(self.q, self.k, self.v, mask, bias.to(self.q.dtype))

    def chunked(self, chunk, cuts=()):
        """In one go, or in parts that hand their state on."""
        q, k = self.kind.encode(self.q), self.kind.encode(self.k)
        outs, state = [], None
        for start, end in zip([0, *cuts], [*cuts, q.shape[2]], strict=True):
            segments = segment_ids(self.is_first[:, start:end])
            part = Steps(k, self.v, self.segments, None, self.log_decay).part(start, end)
            part = part._replace(segments=segments)
            outs.append(born_forms.chunked(q[:, :, start:end], part, self.kind.encoding, state, chunk))
            rows, last = torch.arange(2), torch.full((2,), end - start - 1)
            state = born_forms.state_at(part, self.kind.encoding, rows, last, state)
        return torch.cat(outs, 2)

    def recurrent(self):
        state, outs, states = self.kind.initial(2, self.v.shape[-1], self.q), [], []
        for t in range(self.q.shape[2]):
            inputs = (x[:, :, t] for x in (self.q, self.k, self.v))
            out, state = self.kind.step(*inputs, state, self.log_decay[:, :, t], self.is_first[:, t])
            outs.append(out)
            states.append(state)
        return torch.stack(outs, 2), torch.stack(states, 1)


@pytest.mark.parametrize("complex", [False, True])
@given(seed=seeds, chunk=st.sampled_from([1, 4, 16, 64]), cuts=st.sets(st.integers(1, 39), max_size=2))
@settings(max_examples=15)
def test_three_equal_forms_in_double_precision(heads_of, complex, seed, chunk, cuts):
    case = Case(heads_of, seed, 40, torch.float64, complex)
    parallel = case.parallel()
    assert_close(case.chunked(chunk, sorted(cuts)), parallel, rtol=1e-10, atol=1e-10)
    assert_close(case.recurrent()[0], parallel, rtol=1e-10, atol=1e-10)
    causal = case.kind.attend_causal(case.q, case.k, case.v, case.segments, None, case.log_decay)
    assert_close(causal, parallel, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("complex", [False, True])
@pytest.mark.parametrize("width", [8, 16])
def test_three_equal_forms_in_single_precision(heads_of, complex, width):
    """To 1e-5 of the outputs' norm. Single queries that are orthogonal to all keys may lose more: the
    features' products are sums of terms of order one, and their rounding is up to ~1e-7/f of κ = f."""
    for seed in range(10):
        case = Case(heads_of, seed, 150, torch.float32, complex, reset_rate=0.02, width=width)
        parallel = case.parallel()
        exact = Case(heads_of, seed, 150, torch.float64, complex, reset_rate=0.02, width=width).parallel()
        for out in (parallel, case.chunked(32), case.recurrent()[0]):
            assert (out - exact).norm() < 1e-5 * exact.norm()
            assert (out - parallel).norm() < 1e-5 * parallel.norm()


def test_chunked_gradients_equal_those_of_the_parallel_form(heads_of):
    case = Case(heads_of, 0, 40, torch.float64, False)
    leaves = [case.q, case.k, case.v, case.log_decay]
    for leaf in leaves:
        leaf.requires_grad_()
    expected = torch.autograd.grad(case.parallel().square().sum(), leaves)
    gradients = torch.autograd.grad(case.chunked(8).square().sum(), leaves)
    assert_close(gradients, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("complex", [False, True])
@given(seed=seeds, times=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 69)), min_size=1, max_size=5))
@settings(max_examples=10)
def test_states_at_chosen_steps_are_those_of_the_recurrent_form(heads_of, complex, seed, times):
    case = Case(heads_of, seed, 70, torch.float64, complex)
    states = case.recurrent()[1]  # (B, N, h, φ, dv + 1)
    b, t = torch.tensor(times).unbind(-1)
    found = case.kind.state_at(case.k, case.v, b, t, case.segments, case.log_decay)
    assert_close(found, states[b, t], rtol=1e-10, atol=1e-10)
    b, t = b[t >= 35], t[t >= 35]
    assume(len(b))
    later = segment_ids(case.is_first[:, 35:])
    from_half = case.kind.state_at(
        case.k[:, :, 35:], case.v[:, :, 35:], b, t - 35, later, case.log_decay[:, :, 35:], states[:, 34]
    )
    assert_close(from_half, states[b, t], rtol=1e-10, atol=1e-10)


def test_a_long_row_goes_block_after_block(heads_of, monkeypatch):
    case = Case(heads_of, 1, 200, torch.float64, False)
    whole = case.chunked(8)
    monkeypatch.setattr(born_forms, "CHUNKS_AT_ONCE", 3)
    assert_close(case.chunked(8), whole, rtol=1e-10, atol=1e-10)


def test_padding_keys_and_zero_vectors_have_no_weight(heads_of):
    case = Case(heads_of, 2, 40, torch.float64, False)
    valid = torch.rand(2, 40, generator=torch.Generator().manual_seed(0)) < 0.7
    expected = case.kind.attend(case.q, case.k, case.v, segment_causal(case.segments) & valid[:, None, None])
    got = born_forms.chunked(
        case.kind.encode(case.q), Steps(case.kind.encode(case.k), case.v, case.segments, valid),
        case.kind.encoding, chunk=8,
    )  # fmt: skip
    assert_close(got, expected)
    empty = case.k * valid[:, None, :, None]
    assert_close(case.kind.attend(case.q, empty, case.v, segment_causal(case.segments)), expected)


def test_measured_overlaps_take_the_place_of_exact_ones(heads_of):
    """The seam for circuits: binomial counts of 10⁵ shots give the weights to about 1/√shots."""
    q, k, v = heads_of(0, 6, width=8)
    generator = torch.Generator().manual_seed(0)
    exact = Born(2, 8)

    def inversion_test(q, k):
        probability = exact.overlaps(q, k).clamp(0.0, 1.0)
        return torch.binomial(torch.full_like(probability, 1e5), probability, generator=generator) / 1e5

    measured = Born(2, 8, overlaps=inversion_test)
    difference = (measured.attend_causal(q, k, v) - exact.attend_causal(q, k, v)).norm()
    assert 0.0 < difference < 0.02 * v.norm()
    with pytest.raises(ValueError, match="leave out `state`"):
        measured.attend_causal(q, k, v, state=exact.initial(2, 5, q))

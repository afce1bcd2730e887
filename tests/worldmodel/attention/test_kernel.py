"""Masks, rotary phases, unit vectors, decay, noise and the curriculum."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from qdreamer.worldmodel.attention.coherent import Coherent
from qdreamer.worldmodel.attention.curriculum import RAMPS, mix_at
from qdreamer.worldmodel.attention.decay import DecayGate, decay_bias
from qdreamer.worldmodel.attention.kernel import (
    causal,
    depolarize,
    segment_causal,
    segment_ids,
    unit,
)
from qdreamer.worldmodel.attention.multihead import from_multihead
from qdreamer.worldmodel.attention.rotary import rotate


def test_segments_and_causal_masks():
    segments = segment_ids(torch.tensor([[0.0, 0, 1, 0, 1]]))
    assert segments.tolist() == [[0, 0, 1, 1, 2]]
    assert segment_causal(segments)[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1],
    ]  # fmt: skip
    assert causal(3).int().tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]


def test_multihead_masks_become_a_bias():
    assert from_multihead(None, None, 2, torch.float32) is None
    bias = from_multihead(torch.tensor([[True, False]]), None, 2, torch.float64)
    assert bias.dtype == torch.float64
    assert bias.tolist() == [[-torch.inf, 0.0]]
    padding = torch.tensor([[False, True]])
    bias = from_multihead(torch.full((2, 1, 2), 0.5), padding, 2, torch.float32)
    assert bias.tolist() == [[[[0.5, -torch.inf]], [[0.5, -torch.inf]]]]


@given(st.integers(0, 10**6), st.integers(0, 500), st.integers(0, 500))
def test_rotary_products_depend_on_the_distance_alone(start, a, b):
    q, k = torch.randn(2, 1, 1, 1, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    products = [
        (rotate(q, torch.tensor([s + a])) * rotate(k, torch.tensor([s + b]))).sum() for s in (0, start)
    ]
    assert_close(products[0], products[1], rtol=1e-7, atol=1e-7)
    assert_close(rotate(q, torch.tensor([a])).norm(), q.norm())


def test_rotary_positions_may_differ_by_row():
    x = torch.randn(2, 3, 4, 6)
    positions = torch.tensor([[0, 1, 2, 3], [7, 8, 9, 10]])
    both = rotate(x, positions)
    for row in range(2):
        assert_close(both[row], rotate(x[row : row + 1], positions[row])[0])
    far = rotate(x.float(), torch.full((4,), 10**6))
    assert_close(far.double(), rotate(x.double(), torch.full((4,), 10**6)), rtol=1e-5, atol=1e-5)


def test_unit_vectors_and_their_gradient():
    x = torch.randn(3, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    length = torch.rand(2, 1, 1, dtype=torch.float64, requires_grad=True)
    assert_close(unit(x).norm(dim=-1), torch.ones(3, 2, 5, dtype=torch.float64))
    assert torch.autograd.gradcheck(unit, (x, length))
    assert torch.autograd.gradcheck(lambda x: unit(x), x)
    nothing = torch.zeros(2, 4, requires_grad=True)
    unit(nothing).sum().backward()
    assert not unit(nothing).any()
    assert nothing.grad.isfinite().all()


def test_decay_is_a_product_of_gates():
    gates = torch.rand(2, 3, 6, dtype=torch.float64)
    factors = decay_bias(gates.log()).exp()
    for n in range(6):
        for m in range(n + 1):
            assert_close(factors[..., n, m], gates[..., m + 1 : n + 1].prod(-1))


def test_gates_begin_with_memories_of_4_to_64_steps():
    gate = DecayGate(5, 3)
    log_decay = gate(torch.randn(2, 7, 5))
    assert log_decay.shape == (2, 3, 7)
    lasting = 1.0 / (1.0 - log_decay.exp())
    assert_close(lasting, torch.tensor([4.0, 16.0, 64.0]).view(1, 3, 1).expand(2, 3, 7), rtol=1e-4, atol=0.0)


def test_depolarizing_channel_against_its_kraus_sum():
    """(1 − ε)ρ + ε·1/M from the twirl over all shifts and phases of the M-dimensional register."""
    probabilities = torch.tensor([0.7, 0.1, 0.15, 0.05], dtype=torch.float64)
    size, strength = 4, 0.3
    rho = torch.diag(probabilities).to(torch.complex128)
    shift = torch.roll(torch.eye(size, dtype=torch.complex128), 1, 0)
    phase = torch.diag(torch.exp(2j * torch.pi * torch.arange(size) / size)).to(torch.complex128)
    twirled = torch.zeros_like(rho)
    for i in range(size):
        for j in range(size):
            u = torch.linalg.matrix_power(shift, i) @ torch.linalg.matrix_power(phase, j)
            twirled += u @ rho @ u.mH / size**2
    expected = ((1 - strength) * rho + strength * twirled).diagonal().real
    weights = probabilities.view(1, 1, 1, 4)
    assert_close(depolarize(weights, None, None, strength).flatten(), expected)
    v = torch.randn(1, 1, 4, 3, dtype=torch.float64)
    assert_close(depolarize(weights @ v, None, None, strength, v).flatten(), expected @ v[0, 0])


def test_noise_spreads_over_allowed_keys_only_and_in_training_only(heads_of):
    q, k, v = heads_of(0, 6)
    mask = causal(6)
    mask[2] = False
    noisy, clean = Coherent(2, 6, noise=0.5).double(), Coherent(2, 6).double()
    counts = mask.sum(-1, keepdim=True).clamp(min=1)
    expected = 0.5 * clean.weights(q, k, mask) + 0.5 * mask / counts
    assert_close(noisy.applied_weights(q, k, mask), expected)
    assert_close(noisy.attend(q, k, v, mask), expected @ v)
    assert not noisy.attend(q, k, v, mask)[:, :, 2].any()
    assert_close(noisy.eval().attend(q, k, v, mask), clean.attend(q, k, v, mask))


@pytest.mark.parametrize("ramp", RAMPS)
def test_curriculum_goes_from_exact_to_approximate(ramp):
    mixes = [mix_at(step, 100, 50, ramp) for step in range(0, 300, 5)]
    assert mixes == sorted(mixes)
    assert mixes[0] == mix_at(100, 100, 50, ramp) == 0.0
    assert mixes[-1] == mix_at(150, 100, 50, ramp) == 1.0
    assert mix_at(125, 100, 50, ramp) == pytest.approx(0.5)
    assert mix_at(1000, 100, 50, ramp, first=0.2, last=0.6) == pytest.approx(0.6)
    assert [mix_at(step, 10, 0, ramp) for step in (9, 10)] == [0.0, 1.0]


def test_wrong_curricula_are_refused():
    with pytest.raises(ValueError, match="choose one of linear, cosine"):
        mix_at(0, 0, 10, "square")
    with pytest.raises(ValueError, match="mixes in"):
        mix_at(0, 0, 10, last=1.5)

"""Generators of weights: what each makes, of how many parameters, and what they share."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from qdreamer.quantum.backends.statevector import Statevector
from qdreamer.worldmodel.weights.generator import WEIGHTS, index_bits
from qdreamer.worldmodel.weights.hashed import Hashed
from qdreamer.worldmodel.weights.low_rank import LowRank
from qdreamer.worldmodel.weights.mlp_generator import MLPGenerator
from qdreamer.worldmodel.weights.projection import Projection
from qdreamer.worldmodel.weights.quantum_train import QuantumTrain
from qdreamer.worldmodel.weights.small_network import size

CIRCUITS = ("quantum_train", "frozen_circuit", "separable_circuit")
SIZED = ("projection", "hashed", "low_rank", "mlp_generator")
GOLDEN = [
    -2.609403638547349, -0.23006738234027224, -0.14757572544279396, 0.8382946222109956,
    -0.5339961852559657, 0.9069226465117081, 0.7532976900819582, 1.022527972781719,
]  # fmt: skip
CLASSIFICATION = {"alpha": 0.3, "beta": 0.8, "gamma": 0.1, "mapping": (4, 20, 4)}


def make(name, count, **settings):
    torch.manual_seed(0)
    if name in SIZED:
        settings = {"parameters": 60, **settings}
    return WEIGHTS[name].part(count, **settings)


def test_every_generator_is_registered():
    assert WEIGHTS.names() == sorted([*CIRCUITS, *SIZED, "direct", "small_network"])


@pytest.mark.parametrize("name", [*CIRCUITS, *SIZED])
@given(count=st.integers(30, 400), seed=st.integers(0, 99))
def test_as_many_finite_weights_as_asked_for_with_gradients_to_all_parameters(name, count, seed):
    generator = make(name, count)
    weights = generator()
    assert weights.shape == (count,)
    assert torch.isfinite(weights).all() and weights.std() > 0
    slopes = torch.randn(count, generator=torch.Generator().manual_seed(seed))
    (weights * slopes).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in generator.parameters())
    assert generator.parameter_count == size(generator)


@pytest.mark.parametrize("name", SIZED)
@given(count=st.integers(30, 3000), parameters=st.integers(120, 600))
def test_sized_generators_have_no_more_parameters_than_allowed_and_nearly_as_many(name, count, parameters):
    found = make(name, count, parameters=parameters).parameter_count
    coarsest = {"low_rank": 2 * math.isqrt(count) + 3, "mlp_generator": count.bit_length() + 3}.get(name, 1)
    assert parameters - coarsest < found <= parameters


@pytest.mark.parametrize(
    ("count", "settings", "qubits", "parameters"),
    [
        (898, {"blocks": 5, "mapping": (10, 10, 10)}, 10, 651),  # QTRL, CartPole: 300 + 351
        (6690, {"blocks": 16, **CLASSIFICATION}, 13, 1497),  # QT-16 on MNIST
        (6690, {"blocks": 13, **CLASSIFICATION}, 13, 1263),
        (6690, {"blocks": 1, **CLASSIFICATION}, 13, 327),
    ],
)
def test_published_parameter_counts(count, settings, qubits, parameters):
    generator = QuantumTrain(count, **settings)
    assert generator.qubits == qubits
    assert generator.parameter_count == parameters


def test_qtrl_policy_has_898_weights_and_they_are_made():
    policy = nn.Sequential(nn.Linear(4, 128), nn.ReLU(), nn.Linear(128, 2))
    assert size(policy) == 898


def test_the_equations_hold():
    torch.manual_seed(0)
    made = QuantumTrain(13, blocks=2, **CLASSIFICATION).double()
    p = made.probabilities()
    assert float(p.sum()) == pytest.approx(1.0)
    x = (0.8 * torch.tanh(0.1 * 2.0**3 * p[:13]) + 1e-12) ** 0.3
    signs = [[1.0 if i >> bit & 1 else -1.0 for bit in range(4)] for i in range(13)]
    inputs = torch.cat([torch.tensor(signs, dtype=torch.float64), (x - x.mean())[:, None]], 1)
    out = inputs
    for layer in [part for part in made.mapping if isinstance(part, nn.Linear)]:
        out = out @ layer.weight.t() + layer.bias
    assert_close(made(), out[:, 0] - out.mean())


def test_the_published_mapping_is_affine_and_with_activations_it_is_not():
    inputs = torch.randn(50, 6)
    ones = torch.cat([inputs, torch.ones(50, 1)], 1)
    for activation, affine in (("none", True), ("relu", False), ("tanh", False)):
        torch.manual_seed(1)
        mapping = QuantumTrain(20, activation=activation).mapping
        out = mapping(inputs)
        rest = out - ones @ torch.linalg.lstsq(ones, out).solution
        assert (rest.abs().max() < 1e-5) == affine


def test_no_parameter_reaches_a_frozen_circuit_and_a_separable_one_has_half_the_angles():
    whole, frozen, separable = (make(name, 100, blocks=3) for name in CIRCUITS)
    assert {n.split(".")[0] for n, _ in frozen.named_parameters()} == {"mapping"}
    assert whole.angles.numel() == 2 * separable.angles.numel() == 6 * 7 * 3
    assert "angles" in frozen.state_dict()  # what does not learn must still be kept
    assert whole.parameter_count - frozen.parameter_count == 6 * 7 * 3


@given(st.integers(1, 64), st.integers(2, 500))
def test_chunks_save_qubits(chunk, count):
    made = QuantumTrain(count, blocks=1, mapping=(5,), chunk=chunk)
    rows = -(-count // chunk)
    assert made.qubits == max(2, math.ceil(math.log2(rows)))
    assert made().shape == (count,)
    assert made.mapping[-1].out_features == chunk
    assert abs(float(made().mean())) < 1e-5


def test_a_chunk_of_one_is_no_chunk():
    torch.manual_seed(3)
    plain = QuantumTrain(40)
    torch.manual_seed(3)
    assert torch.equal(plain(), QuantumTrain(40, chunk=1)())


def test_shots_give_the_weights_up_to_their_noise():
    torch.manual_seed(0)
    made = QuantumTrain(16, blocks=2, mapping=(), gamma=0.5)
    with torch.no_grad():
        made.mapping[0].weight[:, :-1] = 0.0  # what the index bits give has no noise
        exact = made()
    few, many = (made.measured(Statevector(), shots, seed=1) for shots in (100, 200_000))
    assert (many - exact).norm() < 0.05 * exact.norm()
    assert (few - exact).norm() > 5 * (many - exact).norm()


@pytest.mark.parametrize("name", ["projection", "hashed"])
@pytest.mark.parametrize("settings", [{}, {"nonzeros": 4}])
def test_random_tables_follow_from_the_state(name, settings):
    if name == "hashed":
        settings = {}
    first = make(name, 200, **settings)
    torch.manual_seed(99)
    second = WEIGHTS[name].part(200, parameters=60, **settings)
    assert not torch.equal(first(), second())
    state = first.state_dict()
    assert sum(x.numel() for x in state.values()) == 61  # no table in it
    second.load_state_dict(state)
    assert torch.equal(first(), second())
    twin = copy.deepcopy(first)
    assert torch.equal(first(), twin())


def test_a_projection_is_linear_and_a_sparse_one_has_the_variance_of_a_dense_one():
    torch.manual_seed(0)
    for made in (Projection(4000, 50), Projection(4000, 50, nonzeros=8)):
        before = made()
        with torch.no_grad():
            made.values.mul_(-2.0)
        assert_close(made(), -2.0 * before)
        per_weight = float(made().square().mean() / made.values.square().mean())
        assert per_weight == pytest.approx(1.0, rel=0.25)
    assert Projection(40, 5, nonzeros=7).nonzeros is None


def test_hashed_weights_are_shared_evenly_up_to_their_sign():
    torch.manual_seed(0)
    made = Hashed(100, 30)
    values, counts = made().detach().abs().unique(return_counts=True)
    assert len(values) == 30
    assert set(counts.tolist()) == {3, 4}
    assert (made() < 0).any() and (made() > 0).any()


def test_a_low_rank_is_low():
    torch.manual_seed(0)
    made = LowRank(400, 85)
    assert torch.linalg.matrix_rank(made().detach().view(20, 20)) == 2
    with pytest.raises(ValueError, match=r"2410 weights of rank 1 take 99 parameters"):
        LowRank(2410, 85)


def test_the_bit_network_sees_nothing_but_the_index():
    torch.manual_seed(0)
    made = MLPGenerator(2410, 85)
    assert made.parameter_count == 85
    of_all = made.network(index_bits(2410, 12)).squeeze()
    assert_close(made(), of_all - of_all.mean())
    with pytest.raises(ValueError, match="must be at least 15"):
        MLPGenerator(2410, 14)


def test_indices_are_written_lowest_bit_first():
    assert index_bits(4, 2).tolist() == [[-1, -1], [1, -1], [-1, 1], [1, 1]]


def test_golden_weights():
    """Angles and mapping by rule instead of by chance: what they make stays what it was."""
    made = QuantumTrain(8, blocks=1, alpha=0.3, beta=0.8, gamma=0.1, mapping=(2,), activation="tanh").double()
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.linspace(-1.0, 1.5, p.numel(), dtype=torch.float64).view_as(p))
    assert_close(made(), torch.tensor(GOLDEN, dtype=torch.float64), rtol=0.0, atol=1e-10)


def test_too_many_qubits_are_refused_with_the_chunk_that_helps():
    with pytest.raises(ValueError, match=r"21 qubits, at most 20 are simulated: set weights.chunk"):
        QuantumTrain(2**20 + 1)

"""Subsets of k of n: QAOA within one weight, by amplitudes and by gates, and what it is compared with."""

import math
from types import SimpleNamespace

import pytest
import torch

from qdreamer.quantum.backends.factory import make_backend
from qdreamer.quantum.circuits.backend import run
from qdreamer.quantum.circuits.circuit import statevector
from qdreamer.quantum.qaoa.penalty import Penalty
from qdreamer.quantum.qaoa.subset_controls import AnnealedSubsets
from qdreamer.quantum.qaoa.subsets import SUBSET_SOLVERS, SubsetProblem, subsets
from qdreamer.quantum.qaoa.xy import ANGLES, XY, XYTask, amplitudes, fixed_angles, ring, slowest, waves

SHAPES = [(2, 1), (3, 1), (4, 2), (5, 2), (6, 3), (7, 3), (4, 4)]


def problem(n, k, groups=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(groups, n, n, generator=generator, dtype=torch.float64)
    return SubsetProblem((q + q.mT) / 2, k)


def make(name, layers=2):
    return SUBSET_SOLVERS[name].part.make(SimpleNamespace(layers=layers))


def mean_energy(problem, name, layers=2):
    return (make(name, layers).probabilities(problem) * problem.energies).sum(1)


def aligned(state, reference):
    """The state in the phase of another."""
    overlap = (state.conj() * reference).sum(-1, keepdim=True)
    return state * overlap / overlap.abs()


def test_subsets_and_their_energies():
    found, posed = subsets(5, 2), problem(5, 2)
    assert len(found) == math.comb(5, 2) and (found.bits.sum(1) == 2).all()
    assert torch.equal(found.number(found.bits), torch.arange(10))
    other, differ = found.swapped(1, 4)
    swapped = found.bits[:, [0, 4, 2, 3, 1]]
    assert torch.equal(found.bits[other], swapped) and torch.equal(differ, (swapped != found.bits).any(1))
    expected = [[float(x @ q @ x) for x in found.bits] for q in posed.quadratic]
    torch.testing.assert_close(posed.energies, torch.tensor(expected, dtype=torch.float64))
    with pytest.raises(ValueError, match="3 of 17 cannot be chosen"):
        subsets(17, 3)


@pytest.mark.parametrize(("n", "k"), [(3, 1), (4, 2), (5, 2), (6, 3), (6, 2), (7, 4)])
def test_the_state_begins_in_the_mixers_ground_state(n, k):
    found, mixer = subsets(n, k), torch.zeros(math.comb(n, k), math.comb(n, k), dtype=torch.float64)
    for i, j in ring(n):
        other, differ = found.swapped(i, j)
        mixer[torch.arange(len(found))[differ], other[differ]] -= 1.0
    values, vectors = torch.linalg.eigh(mixer)
    assert values[1] - values[0] > 0.1
    torch.testing.assert_close(slowest(n, k), vectors[:, 0].abs(), rtol=0.0, atol=1e-12)
    torch.testing.assert_close(waves(n, k).mT @ waves(n, k), torch.eye(k, dtype=torch.float64))


@pytest.mark.parametrize(("n", "k"), [*SHAPES, (12, 4)])
def test_gates_give_the_same_amplitudes_and_keep_the_weight(n, k):
    posed = problem(n, k, groups=1 if n == 12 else 2)
    angles = fixed_angles(posed, 1 if n == 12 else 3)
    task = XYTask(posed, angles)
    state = statevector(task.circuit(), task.values())
    inside = state[:, posed.subsets.index]
    expected = amplitudes(posed, angles)
    torch.testing.assert_close(aligned(inside, expected), expected, rtol=0.0, atol=1e-12)
    assert float(state.abs().square().sum() - inside.abs().square().sum()) < 1e-12
    pairs = n * (n - 1) // 2 + 2 * len(list(ring(n)))
    assert task.circuit().two_qubit_gates == 4 * (k * n - k * (k + 1) // 2) + len(angles.beta) * pairs


def test_amplitudes_are_those_of_qiskits_gates():
    """XXPlusYY, RZZ and RZ upon the ground state."""
    from qiskit.circuit import QuantumCircuit
    from qiskit.circuit.library import XXPlusYYGate
    from qiskit.quantum_info import Statevector

    posed = problem(5, 2, groups=1)
    angles, q = fixed_angles(posed, 2), posed.quadratic[0]
    state = torch.zeros(32, dtype=torch.complex128)
    state[posed.subsets.index] = slowest(5, 2).to(torch.complex128)
    circuit = QuantumCircuit(5)
    for gamma, beta in zip(angles.gamma[0].tolist(), angles.beta.tolist(), strict=True):
        for i in range(5):
            for j in range(i):
                circuit.rzz(gamma * float(q[i, j]), i, j)
            circuit.rz(-gamma * float(q[i].sum()), i)
        for i, j in ring(5):
            circuit.append(XXPlusYYGate(-2 * beta), [i, j])
    found = torch.from_numpy(Statevector(state.numpy()).evolve(circuit).data)[posed.subsets.index]
    expected = amplitudes(posed, angles)[0]
    torch.testing.assert_close(aligned(found, expected), expected, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("choice", ["statevector", "aer", "pennylane"])
def test_shots_are_distributed_as_the_amplitudes(quantum_config, draws_p, choice):
    posed = problem(5, 2)
    task = XYTask(posed, fixed_angles(posed, 1))
    bits = run(make_backend(quantum_config(choice)), [task], 4000, 0).bits[0]
    for shots, expected in zip(bits, XY(1).probabilities(posed), strict=True):
        drawn = task.drawn(shots)
        assert len(drawn) == 4000
        assert draws_p(drawn, expected) > 1e-4


@pytest.mark.parametrize("choice", ["aer_noisy", "ibm"])
def test_a_noisy_device_leaves_the_weight(quantum_config, choice):
    """By chance 3 of 8 shots would have it. The others are dropped, and what is left is still near."""
    posed = problem(4, 2, groups=1)
    task = XYTask(posed, fixed_angles(posed, 1))
    backend = make_backend(quantum_config(choice, device="FakeManilaV2"))
    drawn = task.drawn(run(backend, [task], 2000, 1).bits[0][0])
    assert 0.5 < len(drawn) / 2000 < 1.0
    seen = torch.bincount(drawn, minlength=6) / len(drawn)
    assert float((seen - XY(1).probabilities(posed)[0]).abs().sum()) / 2 < 0.3


def test_solvers_are_distributions_and_order_as_they_should():
    posed = problem(8, 3, groups=20)
    means = {}
    for name in SUBSET_SOLVERS.names():
        found = make(name).probabilities(posed)
        torch.testing.assert_close(found.sum(1), torch.ones(20, dtype=torch.float64))
        assert (found >= 0.0).all()
        means[name] = float((found * posed.energies).sum(1).mean())
    assert means["exact"] == pytest.approx(float(posed.energies.amin(1).mean()))
    assert means["random"] == pytest.approx(float(posed.energies.mean()))
    assert means["exact"] <= means["greedy"] < means["xy"] < means["penalty"] < means["random"]
    assert means["exact"] < means["annealing"] < means["xy"]


def test_more_layers_find_lower_energies():
    posed = problem(8, 3, groups=20)
    found = [float(mean_energy(posed, "xy", layers).mean()) for layers in ANGLES]
    assert found == sorted(found, reverse=True) and found[0] - found[-1] > 0.5


@pytest.mark.parametrize("name", ["xy", "penalty", "annealing", "greedy", "exact"])
@pytest.mark.parametrize("factor", [1e-100, 1e-9, 1e6])
def test_scale_changes_nothing(name, factor):
    posed = problem(6, 2)
    found, again = (
        make(name).probabilities(p) for p in (posed, SubsetProblem(posed.quadratic * factor, posed.k))
    )
    torch.testing.assert_close(found, again)


@pytest.mark.parametrize("name", SUBSET_SOLVERS.names())
def test_equal_energies_prefer_nobody(name):
    found = make(name).probabilities(SubsetProblem(torch.zeros(1, 6, 6, dtype=torch.float64), 2))
    assert torch.isfinite(found).all() and float(found.sum()) == pytest.approx(1.0)
    included = (found @ subsets(6, 2).bits)[0]
    if name not in ("exact", "greedy"):
        torch.testing.assert_close(included, torch.full((6,), 1 / 3, dtype=torch.float64))


def test_annealing_follows_the_distribution_of_its_chains(draws_p):
    posed, chains = problem(4, 2, groups=1), 4000
    energies, found = posed.energies[0], posed.subsets
    generator = torch.Generator().manual_seed(0)
    at = torch.randint(6, (chains,), generator=generator)
    spread = energies.max() - energies.min()
    for temperature in torch.logspace(0, -2, 2, dtype=torch.float64) * spread:
        for i in range(4):
            for j in range(i):
                other = found.swapped(i, j)[0][at]
                chance = torch.exp((energies[at] - energies[other]) / temperature)
                at = torch.where(torch.rand(chains, generator=generator) < chance, other, at)
    assert draws_p(at, AnnealedSubsets(sweeps=2).probabilities(posed)[0]) > 1e-4


def test_the_penaltys_distribution_is_its_circuits():
    posed = problem(5, 2)
    kept = Penalty(2).kept(posed)
    for task, expected in zip(Penalty(2).tasks(posed), kept, strict=True):
        state = statevector(task.circuit(), task.values())[0].abs().square()
        torch.testing.assert_close(state[posed.subsets.index], expected, rtol=0.0, atol=1e-12)
    assert (kept.sum(1) < 1.0).all()


def test_layers_without_angles_are_refused():
    with pytest.raises(ValueError, match="layers=1 to 3, not 4"):
        fixed_angles(problem(4, 2), 4)

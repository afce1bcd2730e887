"""Solvers behind one interface, and problems cut to devices."""

from typing import get_args

import pytest
import torch

from qdreamer.quantum.backends.factory import make_backend
from qdreamer.quantum.backends.statevector import Statevector
from qdreamer.quantum.circuits.backend import Measurement, Usage
from qdreamer.quantum.circuits.sampling import new_seed
from qdreamer.quantum.jobs.dry_run import Planned, cost_of, report
from qdreamer.quantum.qaoa.controls import Annealing, Exact, Greedy, Random, Scalar, Separable
from qdreamer.quantum.qaoa.ising import Ising, all_bits, approximation_ratio, cvar, energies, energy
from qdreamer.quantum.qaoa.qaoa import QAOA
from qdreamer.quantum.qaoa.solver import SOLVERS, AngleChoice, SolverSetup
from qdreamer.quantum.qaoa.sparsify import DeviceLimitError, fit_to_device, sparsified


def source(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", ["qaoa", "exact", "greedy", "random", "annealing", "separable", "scalar"])
def test_solutions_are_consistent_and_reproducible(quantum_config, random_ising, kind):
    ising = random_ising(8, 0)
    solver = SOLVERS[kind].part.make(SolverSetup(Statevector(), quantum_config("statevector")))
    solution, again = (solver.solve(ising, 64, source(3)) for _ in range(2))
    assert solution.energy == pytest.approx(float(energy(ising, solution.bits)), rel=1e-12)
    table = energies(ising, torch.float64)
    assert float(table.min()) - 1e-9 <= solution.energy <= solution.cvar + 1e-9 <= solution.mean + 2e-9
    assert torch.equal(solution.bits, again.bits) and solution.mean == again.mean
    assert solution.bits.dtype == torch.uint8 and solution.bits.shape == (8,)


@pytest.mark.parametrize("factor", [1e-160, 1e-13, 7.0, 1e38, 1e150])
@pytest.mark.parametrize("shift", [0.0, 1e5])
@pytest.mark.parametrize("kind", ["qaoa", "exact", "greedy", "annealing", "separable", "scalar"])
def test_scale_and_constant_change_nothing(quantum_config, random_ising, kind, factor, shift):
    """A problem in other units, far from zero, is the same problem."""
    ising = random_ising(9, 4)
    other = Ising(ising.h * factor, ising.J * factor, (ising.constant + shift) * factor)
    solver = SOLVERS[kind].part.make(SolverSetup(Statevector(), quantum_config("statevector")))
    found, again = (solver.solve(problem, 64, source(3)) for problem in (ising, other))
    assert torch.equal(found.bits, again.bits)
    assert again.energy == pytest.approx((found.energy + shift) * factor, rel=1e-9)
    assert again.mean == pytest.approx((found.mean + shift) * factor, rel=1e-9)


def test_exact_is_brute_force(random_ising):
    for n in (1, 5, 12):
        ising = random_ising(n, n)
        solution = Exact().solve(ising, 0, source())
        assert solution.energy == pytest.approx(float(energy(ising, all_bits(n)).min()), rel=1e-6)
    with pytest.raises(ValueError, match="n ≤ 20"):
        Exact().solve(random_ising(21, 0), 0, source())


def test_greedy_ends_where_no_flip_helps(random_ising):
    for seed in range(10):
        ising = random_ising(10, seed)
        bits = Greedy(restarts=1).solve(ising, 0, source(seed)).bits
        flipped = bits ^ torch.eye(10, dtype=torch.uint8)
        assert float(energy(ising, flipped).min()) >= float(energy(ising, bits)) - 1e-9


def test_greedy_ends_on_plateaus():
    flat = Ising(torch.zeros(4), torch.zeros(4, 4))
    assert Greedy().solve(flat, 0, source()).energy == 0.0
    assert Annealing().solve(flat, 8, source()).energy == 0.0


def test_separable_is_the_best_without_couplings(random_ising):
    ising = random_ising(8, 2)
    alone = Ising(ising.h, torch.zeros_like(ising.J))
    found = Separable().solve(ising, 0, source())
    assert torch.equal(found.bits, Exact().solve(alone, 0, source()).bits)
    assert found.energy == pytest.approx(float(energy(ising, found.bits)))  # judged with couplings
    assert found.energy > Exact().solve(ising, 0, source()).energy


def test_separable_sees_couplings_within_a_block(random_ising):
    ising = random_ising(8, 2)
    within = torch.block_diag(*[torch.ones(2, 2)] * 4).double()
    alone = Ising(ising.h, ising.J * within)
    found = Separable(2).solve(ising, 0, source())
    assert torch.equal(found.bits, Exact().solve(alone, 0, source()).bits)
    assert not torch.equal(found.bits, Separable().solve(ising, 0, source()).bits)


def test_scalar_has_equal_bits_in_all_blocks(random_ising):
    ising = random_ising(6, 1)
    one = Scalar().solve(ising, 0, source())
    candidates = torch.tensor([[0] * 6, [1] * 6])
    assert one.energy == pytest.approx(float(energy(ising, candidates).min()))
    two = Scalar(2).solve(ising, 0, source())
    assert torch.equal(two.bits, two.bits[:2].repeat(3)) and two.samples == 4
    assert two.energy <= one.energy
    with pytest.raises(ValueError, match="6 bits are not blocks of 4"):
        Scalar(4).solve(ising, 0, source())


@pytest.mark.parametrize("kind", get_args(AngleChoice))
def test_every_choice_of_angles_beats_random_samples(random_ising, kind):
    """Mean energy of 64 samples, 20 problems of 10 bits."""
    solver, control = QAOA(Statevector(), 3, kind), Random()
    ratios = []
    for seed in range(20):
        ising = random_ising(10, seed)
        table = energies(ising)
        found, uniform = (s.solve(ising, 64, source(seed)).mean for s in (solver, control))
        ratios.append(approximation_ratio(table, found) - approximation_ratio(table, uniform))
    assert sum(ratios) / 20 > 0.15 and min(ratios) > 0


def test_statistics_golden():
    values = torch.arange(20, dtype=torch.float64)
    assert cvar(values) == 0.5 and cvar(values, 0.01) == 0.0 and cvar(values, 1.0) == 9.5
    assert approximation_ratio(values, 0.0) == 1.0 and approximation_ratio(values, 19.0) == 0.0
    assert approximation_ratio(torch.ones(4), 1.0) == 1.0
    seeds = {new_seed(source(k)) for k in range(100)}
    assert len(seeds) == 100 and min(seeds) >= 0 and max(seeds) < 2**31


def test_a_task_through_any_queue(random_ising):
    """What `task` submits and `finish` judges is what `solve` does."""
    ising = random_ising(6, 2)
    solver = QAOA(Statevector(), 2)
    whole = solver.solve(ising, 50, source(1))
    generator = source(1)
    task = solver.task(ising, generator)
    measurement = Statevector().submit([task], 50, new_seed(generator)).result()
    parts = solver.finish(ising, measurement)
    assert parts.energy == whole.energy and parts.mean == whole.mean
    assert parts.usage.shots == 50
    known = Measurement(measurement.bits, Usage(), (torch.eye(2).double().expand(6, 2, 2),))
    assert solver.finish(ising, known).mean == pytest.approx(whole.mean)


# Devices


def test_sparsify_keeps_the_strongest():
    couplings = torch.tensor([[0.0, -3.0, 1.0], [0.0, 0.0, 2.0], [0.0, 0.0, 0.0]])
    ising = Ising(torch.ones(3), couplings, 5.0)
    two = sparsified(ising, 0.67)
    assert two.edges == ((0, 1), (1, 2)) and two.constant == 5.0
    assert two.J.tolist() == [[0.0, -3.0, 0.0], [0.0, 0.0, 2.0], [0.0, 0.0, 0.0]]
    assert sparsified(ising, 1.0) is ising and sparsified(ising, 0.01).edges == ((0, 1),)


class CircuitEstimate:
    """Fidelity that falls with gates: 0.99 for each."""

    def __init__(self, ising, layers):
        self.two_qubit_gates = 3 * len(ising.edges) * layers
        self.fidelity = 0.99**self.two_qubit_gates


def test_problems_are_cut_to_the_device(random_ising):
    small = fit_to_device(random_ising(5, 0), 3, CircuitEstimate, 0.5, force=False)
    assert (small.layers, small.share) == (1, 1.0)
    eight = random_ising(8, 0)
    fit = fit_to_device(eight, 3, CircuitEstimate, 0.5, force=False)
    assert (fit.layers, fit.share) == (1, 0.75)
    assert fit.fidelity == CircuitEstimate(sparsified(eight, 0.75), 1).fidelity >= 0.5
    with pytest.raises(DeviceLimitError, match=r"12 qubits at 3 layers: estimated fidelity 0\.0026"):
        fit_to_device(random_ising(12, 0), 3, CircuitEstimate, 0.5, force=False)
    with pytest.raises(DeviceLimitError, match=r"below quantum.min_fidelity=0\.9"):
        fit_to_device(eight, 1, CircuitEstimate, 0.9, force=False)
    forced = fit_to_device(random_ising(12, 0), 3, CircuitEstimate, 0.5, force=True)
    assert (forced.layers, forced.share) == (3, 1.0)
    assert fit_to_device(eight, 3, lambda ising, layers: None, 0.5, force=False).layers == 3


def test_on_a_fake_device(quantum_config, random_ising):
    config = quantum_config("ibm", device="FakeGuadalupeV2", optimization_level=1)
    backend = make_backend(config)
    solver = SOLVERS["qaoa"].part.make(SolverSetup(backend, config, layers=3))
    task = solver.task(random_ising(4, 0), source())
    assert task.angles.layers == 1
    with pytest.raises(DeviceLimitError, match=r"use fewer qubits, quantum=statevector, or quantum\.force"):
        solver.task(random_ising(9, 0), source())
    solution = solver.solve(random_ising(4, 0), 200, source())
    assert solution.samples == 200 and solution.usage.shots >= 200
    text = report(backend, config.device, [Planned("search", task, 1000, 50)], 10_000, 5.0)
    assert "FakeGuadalupeV2" in text and "50000 shots" in text
    assert "exceeds quantum.budget_shots=10000" in text and "exceeds quantum.budget_seconds=5" in text
    cost = cost_of(backend, Planned("search", task, 1000, 50))
    assert cost.qubits == 4 and cost.two_qubit_gates >= 2 * len(task.ising.edges)
    assert 0 < cost.fidelity < 1 and cost.depth > 4
    # 50 jobs of two seconds, and 50,000 shots of at least the delay between them.
    assert 50 * 2 + 50_000 * 250e-6 < cost.seconds < 200


def test_a_dry_run_of_a_simulator_costs_no_qpu(random_ising):
    task = QAOA(Statevector(), 1).task(random_ising(4, 0), source())
    text = report(Statevector(), None, [Planned("search", task, 100, 3)])
    assert "300 shots, about 0.0 s of QPU time" in text and "–" in text


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="solvers=vqe is not one of annealing, exact"):
        SOLVERS["vqe"]
    with pytest.raises(ValueError, match="angles=best is not one of fixed, ramp"):
        QAOA(Statevector(), 1, "best")

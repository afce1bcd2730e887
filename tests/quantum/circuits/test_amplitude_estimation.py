"""Grover's iteration against its closed form, and the estimates made of it against the exact sum."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qdreamer.quantum.backends.factory import make_backend
from qdreamer.quantum.backends.statevector import Statevector
from qdreamer.quantum.circuits.amplitude_estimation import (
    Schedule,
    estimate,
    fisher_information,
    good_probability,
    measure,
)
from qdreamer.quantum.circuits.backend import run
from qdreamer.quantum.circuits.circuit import Circuit, Gate, statevector
from qdreamer.quantum.circuits.grover import BlockOracle, GroverTask, MeanOracle, flip_angles, flip_gates
from qdreamer.quantum.circuits.sampling import bits_to_index, index_to_bits

FIVE = Schedule((0, 1, 2, 4, 8), 100)


def numbers(n, rows=1, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).random((rows, 2**n)))


def angles(oracle):
    return torch.asin(oracle.probability.sqrt())


def exact(oracle, schedule, coherence=1.0):
    """P_k (R, K) by the closed form."""
    kept = torch.tensor(coherence, dtype=torch.float64)
    return good_probability(angles(oracle), schedule, kept, oracle.mixed)


def drawn(oracle, schedule, trials, seed=0):
    """Hits (trials, K) of one problem."""
    p = exact(oracle, schedule).expand(trials, -1).numpy()
    return torch.from_numpy(np.random.default_rng(seed).binomial(schedule.shots, p)).double()


@pytest.mark.parametrize("n", [1, 2, 4])
def test_a_flip_changes_the_sign_of_one_state(n):
    for state in range(2**n):
        columns = []
        for start in range(2**n):
            begin = tuple(Gate("x", (q,)) for q in range(n) if start >> q & 1)
            circuit = Circuit(n, (*begin, *flip_gates(n)), 2**n - 1)
            columns.append(statevector(circuit, flip_angles(n, state)[None])[0])
        found = torch.stack(columns, 1)
        other = (state + 1) % 2**n
        expected = torch.eye(2**n, dtype=torch.complex128)
        expected[state, state] = -1
        torch.testing.assert_close(found / found[other, other], expected, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("oracle", [MeanOracle(numbers(3, 4)), BlockOracle(numbers(3, 4), 5)])
def test_circuits_have_the_closed_form(oracle):
    schedule = Schedule((0, 1, 2, 5), 1)
    found = []
    for power in schedule.powers:
        task = GroverTask(oracle, power)
        state = statevector(task.circuit(), task.values())  # (R, 2^n)
        bits = index_to_bits(torch.arange(state.shape[1]), task.circuit().qubits)
        found.append(state.abs().square()[:, oracle.good(bits)].sum(1))
    torch.testing.assert_close(torch.stack(found, 1), exact(oracle, schedule), rtol=0.0, atol=1e-10)


def test_costs_in_gates_are_as_documented():
    mean, block = (
        GroverTask(oracle, 0).circuit() for oracle in (MeanOracle(numbers(4)), BlockOracle(numbers(4), 0))
    )
    assert (mean.two_qubit_gates, block.two_qubit_gates) == (2**4, 2**4 - 2)
    mean, block = (
        GroverTask(oracle, 1).circuit() for oracle in (MeanOracle(numbers(4)), BlockOracle(numbers(4), 0))
    )
    assert mean.two_qubit_gates == 3 * 2**4 + 2**5 - 2  # A three times, one flip of |00000⟩
    assert block.two_qubit_gates == 5 * (2**4 - 2)


def test_the_exact_answers_are_those_of_the_numbers():
    x = numbers(3, 4)
    torch.testing.assert_close(MeanOracle(x).probability, x.mean(1))
    torch.testing.assert_close(BlockOracle(x, 5).probability, x[:, 5] / x.sum(1))


@pytest.mark.parametrize("choice", ["statevector", "aer", "pennylane"])
@pytest.mark.parametrize("oracle", [MeanOracle(numbers(2)), BlockOracle(numbers(2), 1)])
def test_backends_draw_what_the_circuit_says(quantum_config, draws_p, choice, oracle):
    backend = make_backend(quantum_config(choice))
    tasks = [GroverTask(oracle, power) for power in (0, 1, 3)]
    for task, bits in zip(tasks, run(backend, tasks, 4000, 1).bits, strict=True):
        probabilities = statevector(task.circuit(), task.values())[0].abs().square()
        assert draws_p(bits_to_index(bits)[0], probabilities) > 1e-4


@pytest.mark.parametrize("choice", ["aer_noisy", "ibm"])
def test_on_a_noisy_device_coherence_is_found_too(quantum_config, choice):
    """Two numbers, one of them 0: deep circuits lose the signal, and the estimate says how fast."""
    oracle, schedule = MeanOracle(torch.tensor([[0.6, 0.0]])), Schedule((0, 1, 2, 3, 4), 400)
    backend = make_backend(quantum_config(choice, device="FakeManilaV2"))
    found = estimate(measure(backend, oracle, schedule, 3), schedule, coherence=None)
    assert 0.8 < float(found.coherence[0]) < 0.9999
    assert abs(float(found.probability[0]) - 0.3) < 0.05


@given(st.floats(0.01, math.pi / 2 - 0.01), st.floats(0.9, 1.0))
@settings(max_examples=15, deadline=None)
def test_exact_frequencies_give_the_exact_angle(angle, coherence):
    kept = torch.tensor(coherence, dtype=torch.float64)
    p = good_probability(torch.tensor([angle], dtype=torch.float64), FIVE, kept, 0.5)
    known = estimate(FIVE.shots * p, FIVE, coherence=coherence)
    assert abs(float(known.probability[0]) - math.sin(angle) ** 2) < 1e-6
    both = estimate(FIVE.shots * p, FIVE, coherence=None)
    assert abs(float(both.probability[0]) - math.sin(angle) ** 2) < 1e-4
    assert abs(float(both.coherence[0]) - coherence) < 1e-4


def test_noise_that_is_not_in_the_model_makes_estimates_wrong():
    oracle = MeanOracle(torch.tensor([[0.05, 0.15]]))
    hits = FIVE.shots * exact(oracle, FIVE, coherence=0.95)
    right, wrong = (float(estimate(hits, FIVE, coherence=c).probability[0]) for c in (0.95, 1.0))
    assert abs(right - 0.1) < 1e-6 < 0.003 < abs(wrong - 0.1)


def test_errors_are_those_that_fishers_information_allows():
    """600 trials tell a standard error to 3 %."""
    oracle, trials = MeanOracle(numbers(3)), 600
    found = estimate(drawn(oracle, FIVE, trials), FIVE)
    actual = float((found.probability - oracle.probability).square().mean().sqrt())
    bound = float(
        torch.sin(2 * angles(oracle)) / fisher_information(angles(oracle), FIVE, 0.5, torch.ones(1)).sqrt()
    )
    assert 0.9 < actual / bound < 1.15
    assert 0.9 < float(found.error.mean()) / bound < 1.1


def test_the_information_is_the_curvature_of_the_likelihood():
    """By finite differences of the expected log likelihood."""
    oracle, coherence = MeanOracle(numbers(3)), 0.97
    p, kept, angle = exact(oracle, FIVE, coherence), torch.tensor(coherence), angles(oracle)

    def expected(shift):
        q = good_probability(angle + shift, FIVE, kept, 0.5)
        return float((FIVE.shots * (p * q.log() + (1 - p) * (1 - q).log())).sum())

    h = 1e-5
    curvature = (expected(h) - 2 * expected(0.0) + expected(-h)) / h**2
    found = float(fisher_information(angle, FIVE, 0.5, kept[None])[0])
    assert found == pytest.approx(-curvature, rel=1e-3)


def test_errors_are_told_where_nothing_or_everything_was_good():
    few = Schedule((0, 1, 2), 10)
    found = estimate(torch.tensor([[0.0, 0.0, 0.0], [10.0, 10.0, 10.0]]), few)
    torch.testing.assert_close(found.probability, torch.tensor([0.0, 1.0]).double())
    assert (found.error > 1e-3).all() and (found.error < 0.01).all()  # 1/(10·(1 + 9 + 25)) is 0.0029


def test_finding_the_coherence_too_makes_errors_larger():
    """Errors of 400 estimates (the median: a few find another maximum) beside what the information says."""
    oracle, trials, kept = MeanOracle(torch.tensor([[0.05, 0.15]])), 400, 0.95
    p = exact(oracle, FIVE, kept).expand(trials, -1).numpy()
    hits = torch.from_numpy(np.random.default_rng(0).binomial(FIVE.shots, p)).double()
    told = []
    for coherence in (kept, None):
        found = estimate(hits, FIVE, coherence=coherence)
        actual = float((found.probability - oracle.probability).abs().median()) / 0.6745  # of a normal one
        told.append(float(found.error.median()))
        assert 0.85 < actual / told[-1] < 1.18
    assert told[1] > told[0]


def test_what_an_iteration_loses_is_told_apart_from_its_turns():
    oracle = MeanOracle(torch.tensor([[0.05, 0.15]]))
    costly = Schedule(FIVE.powers, FIVE.shots, loss=5.0)
    hits = FIVE.shots * exact(oracle, costly, coherence=0.97)
    right, wrong = (float(estimate(hits, s, coherence=0.97).probability[0]) for s in (costly, FIVE))
    assert abs(right - 0.1) < 1e-6 < 0.001 < abs(wrong - 0.1)


def test_errors_fall_faster_than_those_of_counting():
    """Slopes of RMSE over calls: near −1 with doubling powers, −½ when the same circuit is only counted."""
    oracle, trials = MeanOracle(numbers(3)), 300
    slopes = []
    for schedules in (
        [Schedule.doubling(last, 50) for last in (2, 4, 6)],
        [Schedule((0,), shots) for shots in (300, 3000, 30000)],
    ):
        errors = [estimate(drawn(oracle, s, trials), s).probability - oracle.probability for s in schedules]
        rmse = [float(error.square().mean().sqrt()) for error in errors]
        slopes.append(np.polyfit(np.log([s.calls for s in schedules]), np.log(rmse), 1)[0])
    assert slopes[0] < -0.85
    assert -0.6 < slopes[1] < -0.4


@pytest.mark.parametrize(
    "wrong", [torch.rand(1, 3), torch.tensor([[0.5, 1.5]]), torch.tensor([[0.5, math.nan]])]
)
def test_numbers_that_no_amplitude_can_hold_are_refused(wrong):
    with pytest.raises(ValueError, match=r"power of two|\[0, 1\]"):
        MeanOracle(wrong)


def test_a_measurement_counts_what_is_good():
    x = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    hits = measure(Statevector(), MeanOracle(x), Schedule((0, 1), 7), 0)
    torch.testing.assert_close(hits, torch.tensor([[0.0, 0.0], [7.0, 7.0]], dtype=torch.float64))

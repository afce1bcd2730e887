"""Every backend runs every task: the right distribution, seeded, in the right order of qubits.

"Noiseless" below is whatever the backend can do without errors; ibm's path runs on Aer's simulator.
"""

import pytest
import torch

from qdreamer.quantum.backends.factory import make_backend
from qdreamer.quantum.backends.statevector import probabilities
from qdreamer.quantum.circuits.backend import BackendError, JobLostError, run
from qdreamer.quantum.circuits.grover_rudolph import AmplitudeTask
from qdreamer.quantum.circuits.overlaps import OverlapTask
from qdreamer.quantum.circuits.sampling import bits_to_index
from qdreamer.quantum.config import QuantumConfig
from qdreamer.quantum.qaoa.ansatz import Angles, IsingTask, angles, warm_start

NOISELESS = ("statevector", "aer", "aer_noisy", "lightning.qubit", "default.qubit", "ibm")
SHOTS = 20_000
LEVEL = 1e-4 / 100  # family-wise 1e-4: fewer than a hundred p-values are taken


@pytest.fixture(scope="session")
def backends(quantum_config):
    """Backends by the names above, made once."""
    made = {}

    def make(name):
        if name not in made:
            if name == "ibm":
                from qiskit_aer import AerSimulator

                from qdreamer.quantum.backends.ibm import IBM

                config = quantum_config(
                    "ibm",
                    device="FakeManilaV2",
                    dynamical_decoupling=False,
                    twirling=False,
                    mitigation=False,
                    optimization_level=1,
                )
                made[name] = IBM(config, device=AerSimulator())
            elif name == "aer_noisy":
                made[name] = make_backend(quantum_config("aer_noisy", device=None))
            elif "." in name:
                made[name] = make_backend(quantum_config("pennylane", device=name))
            else:
                made[name] = make_backend(quantum_config(name))
        return made[name]

    return make


@pytest.fixture(scope="session")
def tasks(random_ising):
    ising = random_ising(4, 0)
    a = angles(ising, 2)
    two = Angles(torch.cat([a.gamma, 0.5 * a.gamma]), torch.cat([a.beta, a.beta]))
    warm = angles(ising, 1, warm=warm_start(torch.tensor([0, 1, 1, 0])))
    g = torch.Generator().manual_seed(1)
    weights = torch.rand(3, 8, generator=g, dtype=torch.float64)
    weights[0, 3], weights[1, 4:] = 0.0, 0.0
    q, k = torch.randn(2, 3, 7, generator=g, dtype=torch.float64)
    return [IsingTask(ising, two), IsingTask(ising, warm), AmplitudeTask(weights), OverlapTask(q, k)]


@pytest.mark.parametrize("name", NOISELESS)
def test_draws_follow_the_exact_distribution(backends, tasks, draws_p, name):
    measurement = run(backends(name), tasks, SHOTS, 1)
    assert [tuple(bits.shape) for bits in measurement.bits] == [
        (task.rows, SHOTS, task.circuit().qubits) for task in tasks
    ]
    for task, bits in zip(tasks, measurement.bits, strict=True):
        assert bits.dtype == torch.uint8
        for index, exact in zip(bits_to_index(bits), probabilities(task), strict=True):
            assert draws_p(index, exact) > LEVEL
    circuits = sum(task.rows for task in tasks)
    assert (measurement.usage.circuits, measurement.usage.shots) == (circuits, circuits * SHOTS)
    assert measurement.usage.seconds > 0 and measurement.usage.queue_seconds == 0


def test_the_test_of_draws_tells_other_distributions_apart(backends, tasks, draws_p):
    """Qubits in reverse, or 5 % more or less of every other state."""
    bits = run(backends("statevector"), [tasks[2]], SHOTS, 1).bits[0][2]
    exact = probabilities(tasks[2])[2]
    assert draws_p(bits_to_index(bits.flip(-1)), exact) < LEVEL
    distorted = exact * torch.tensor([0.95, 1.05]).repeat(4)
    assert draws_p(bits_to_index(bits), distorted / distorted.sum()) < LEVEL


@pytest.mark.parametrize("name", NOISELESS)
def test_seeds(backends, tasks, name):
    """The same seed the same draws, whatever ran in between; the next seed others."""
    first, other, again = (run(backends(name), tasks, 200, seed).bits for seed in (5, 6, 5))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first[:3], other[:3], strict=True))
    # Rows with equal probabilities are drawn independently.
    rows = AmplitudeTask(torch.ones(2, 8))
    a, b = run(backends(name), [rows], 500, 7).bits[0]
    assert abs(float((a == b).all(-1).double().mean()) - 1 / 8) < 0.08


@pytest.mark.parametrize("name", ["aer", "lightning.qubit", "default.qubit"])
def test_exact_probabilities(backends, tasks, name):
    for task in tasks:
        found = backends(name).probabilities(task)
        torch.testing.assert_close(found.double(), probabilities(task).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["aer", "aer_noisy", "ibm"])
def test_one_transpilation_per_shape(backends, random_ising, name, monkeypatch):
    backend = backends(name)
    prepared = []
    inner = backend.engine.prepare
    monkeypatch.setattr(backend.engine, "prepare", lambda circuit: prepared.append(1) or inner(circuit))
    for seed in (10, 11, 12):
        ising = random_ising(5, seed)
        run(backend, [IsingTask(ising, angles(ising, 1))] * 2, 10, seed)
    assert len(prepared) == 1


def test_many_problems_in_one_call(backends, random_ising, monkeypatch):
    """Problems of one shape, or of several, are one call of the sampler."""
    backend = backends("ibm")
    calls = []
    inner = backend.engine.sampler
    monkeypatch.setattr(backend.engine, "sampler", lambda *a: calls.append(1) or inner(*a))
    problems = [random_ising(n, n) for n in (2, 3, 3, 4)]
    measurement = run(backend, [IsingTask(ising, angles(ising, 1)) for ising in problems], 50, 0)
    assert [bits.shape[-1] for bits in measurement.bits] == [2, 3, 3, 4]
    assert len(calls) == 1


@pytest.mark.parametrize("name", NOISELESS)
def test_nonsense_is_refused(backends, tasks, name):
    with pytest.raises(ValueError, match="at least one task and one shot"):
        run(backends(name), tasks, 0, 0)
    with pytest.raises(ValueError, match="at least one task and one shot"):
        run(backends(name), [], 10, 0)
    with pytest.raises(JobLostError, match="end with their process"):
        backends(name).collect("some-id")


def test_a_failing_device_is_a_backend_error(backends, tasks, monkeypatch):
    class Broken:
        def run(self, pubs):
            raise RuntimeError("boom\nover two lines")

    backend = backends("aer")
    monkeypatch.setattr(backend.engine, "sampler", lambda key, seed: Broken())
    with pytest.raises(BackendError, match="aer refused a job: RuntimeError: boom over two lines"):
        run(backend, tasks, 10, 0)


class Answer:
    """A job whose result holds whatever it is given."""

    def __init__(self, array):
        self._array = array

    def run(self, pubs):
        return self

    def job_id(self):
        return "id"

    def result(self):
        class Bits:
            def __init__(self, array):
                self._array = array

            def to_bool_array(self, order):
                return self._array

        class Pub:
            data = {"meas": Bits(self._array)} if self._array is not None else {}

        return [Pub()]


def test_malformed_answers_are_backend_errors(backends, monkeypatch):
    import numpy as np

    task = AmplitudeTask(torch.ones(2, 4))
    backend = backends("aer")
    wrong = {
        "empty counts": np.zeros((2, 0, 2), bool),
        "not what was asked for": np.zeros((2, 7, 2), bool),
        "KeyError": None,
        "AttributeError": "counts",
    }
    for message, array in wrong.items():
        monkeypatch.setattr(backend.engine, "sampler", lambda key, seed, array=array: Answer(array))
        with pytest.raises(BackendError, match=message):
            run(backend, [task], 10, 0)
    # More shots than asked for, as twirling gives, are cut.
    monkeypatch.setattr(backend.engine, "sampler", lambda key, seed: Answer(np.ones((2, 12, 2), bool)))
    measurement = run(backend, [task], 10, 0)
    assert measurement.bits[0].shape == (2, 10, 2) and measurement.usage.shots == 24


def test_config_refuses_what_does_not_fit(quantum_config):
    cases = [
        (("pennylane", {"device": None}), "needs quantum.device"),
        (("aer", {"device": "FakeFez"}), "use quantum=aer_noisy"),
        (("aer", {"noise": {"readout": 0.1}}), "takes no quantum.noise"),
        (("aer_noisy", {"noise": {"readout": 0.1}}), "brings its own noise"),
        (("pennylane", {"noise": {"readout": 0.1}}), "needs quantum.device=default.mixed"),
        (("aer", {"twirling": True}), "use quantum=ibm"),
        (("statevector", {"mitigation": True}), "leave out quantum.mitigation"),
        (("aer_noisy", {"device": None, "noise": {"t1": 10.0, "t2": 30.0}}), "must not exceed"),
        (("statevector", {"shots": 0}), "must be at least 1"),
        (("statevector", {"name": "qpu"}), "qpu is not one of aer, aer_noisy"),
    ]
    for (name, changes), message in cases:
        with pytest.raises(ValueError, match=message):
            quantum_config(name, **changes)
    assert isinstance(quantum_config("ibm"), QuantumConfig)
    with pytest.raises(ValueError, match="no PennyLane device here"):
        make_backend(quantum_config("pennylane", device="lightening.qubit"))
    with pytest.raises(ValueError, match="did you mean FakeGuadalupeV2"):
        make_backend(quantum_config("aer_noisy", device="FakeGuadelupe"))

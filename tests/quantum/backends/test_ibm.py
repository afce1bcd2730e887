"""The IBM path on fake devices, and everything that can be wrong with an account."""

import pytest
import torch

from qdreamer.quantum.backends.credentials import one_line, protect, scrub
from qdreamer.quantum.backends.factory import make_backend, open_backend
from qdreamer.quantum.backends.statevector import Statevector
from qdreamer.quantum.circuits.backend import BackendError, CredentialsError, run
from qdreamer.quantum.circuits.grover_rudolph import AmplitudeTask
from qdreamer.quantum.circuits.sampling import bits_to_index
from qdreamer.quantum.jobs.job_queue import JobQueue, Limits

TOKEN = "s3cr3t-t0ken-0123456789-abcdefghijklmnopqrst"
TASK = AmplitudeTask(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path):
    """No environment, an empty home."""
    for name in ("TOKEN", "INSTANCE", "CHANNEL", "URL"):
        monkeypatch.delenv(f"QISKIT_IBM_{name}", raising=False)
    from qiskit_ibm_runtime.accounts import management

    monkeypatch.setattr(management, "_DEFAULT_ACCOUNT_CONFIG_JSON_FILE", str(tmp_path / "accounts.json"))


def test_no_account_is_one_line_that_names_the_fix(quantum_config):
    with pytest.raises(CredentialsError) as caught:
        make_backend(quantum_config("ibm"))
    text = str(caught.value)
    assert "set QISKIT_IBM_TOKEN and QISKIT_IBM_INSTANCE" in text and "\n" not in text
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


@pytest.mark.parametrize("kind", [ConnectionError, ValueError])
def test_no_network_and_no_token_in_any_message(quantum_config, monkeypatch, kind):
    import qiskit_ibm_runtime

    monkeypatch.setenv("QISKIT_IBM_TOKEN", TOKEN)

    def refuse(*args, **kwargs):
        raise kind(f"cannot reach https://iam.cloud.ibm.com?apikey={TOKEN}\nretry with {TOKEN}")

    monkeypatch.setattr(qiskit_ibm_runtime, "QiskitRuntimeService", refuse)
    with pytest.raises(BackendError) as caught:
        make_backend(quantum_config("ibm"))
    text = str(caught.value)
    assert "check the network" in text and TOKEN not in text and "\n" not in text
    assert TOKEN not in repr(caught.value.__cause__)
    warnings = []
    assert open_backend(quantum_config("ibm"), warnings.append).name == "statevector"
    assert len(warnings) == 1 and TOKEN not in warnings[0]
    monkeypatch.delenv("QISKIT_IBM_TOKEN")
    with pytest.raises(CredentialsError):  # nobody trains for hours to find that out
        open_backend(quantum_config("ibm"), warnings.append)


class Service:
    """A runtime service whose device is Aer's simulator and whose jobs can be asked for again."""

    def __init__(self):
        from qiskit_aer import AerSimulator

        self._simulator = AerSimulator()
        self.jobs = {}

    def least_busy(self, **conditions):
        assert conditions == {"operational": True, "simulator": False}
        return self._simulator

    def backend(self, name):
        raise LookupError(f"no backend {name} for {TOKEN}")

    def job(self, job_id):
        return self.jobs[job_id]


def test_a_service_with_its_jobs(quantum_config, monkeypatch, draws_p, tmp_path):
    """least_busy, job ids, and collecting a job after a restart, without a network."""
    import qiskit_ibm_runtime
    from qiskit_ibm_runtime.executor_sampler import SamplerV2

    monkeypatch.setenv("QISKIT_IBM_TOKEN", TOKEN)
    service = Service()
    monkeypatch.setattr(qiskit_ibm_runtime, "QiskitRuntimeService", lambda: service)
    inner = SamplerV2.run

    def keep(self, pubs, **options):
        job = inner(self, pubs, **options)
        service.jobs[job.job_id()] = job
        return job

    monkeypatch.setattr(SamplerV2, "run", keep)
    config = quantum_config(
        "ibm", dynamical_decoupling=False, twirling=False, mitigation=False, optimization_level=1
    )
    backend = make_backend(config)
    assert backend.remote
    job = backend.submit([TASK], 2000, 1)
    index = bits_to_index(job.result(10.0).bits[0])[0]
    exact = torch.tensor([0.1, 0.2, 0.3, 0.4])
    assert draws_p(index, exact) > 1e-4 / 2
    from qdreamer.quantum.jobs.journal import JobEntry, Journal

    Journal(tmp_path).add(JobEntry(job.id, "ibm", 2000, 0.0, {"update": 3}))
    queue = JobQueue(make_backend(config), Limits(10.0), pytest.fail, tmp_path)
    (outcome,) = queue.wait(10.0)
    assert outcome.recovered and outcome.tag == {"update": 3}
    assert torch.equal(bits_to_index(outcome.measurement.bits[0])[0], index)
    with pytest.raises(BackendError) as caught:
        make_backend(quantum_config("ibm", device="ibm_nowhere"))
    assert "use quantum.device=least_busy" in str(caught.value) and TOKEN not in str(caught.value)


@pytest.mark.parametrize("extras", [False, True])
def test_fake_devices_run_the_same_code(quantum_config, extras):
    config = quantum_config(
        "ibm",
        device="FakeGuadalupeV2",
        dynamical_decoupling=extras,
        twirling=extras,
        mitigation=extras,
    )
    backend = make_backend(config)
    assert not backend.remote
    measurement = run(backend, [TASK], 3000, 2)
    assert measurement.bits[0].shape == (1, 3000, 2)
    p = torch.bincount(bits_to_index(measurement.bits[0])[0], minlength=4) / 3000
    distance = float((p - torch.tensor([0.1, 0.2, 0.3, 0.4])).abs().sum() / 2)
    assert distance < 0.1  # a real device's noise, not nonsense
    assert (measurement.confusion[0] is not None) == extras
    assert torch.equal(run(backend, [TASK], 3000, 2).bits[0], measurement.bits[0])


def test_a_large_fake_device_costs_its_active_qubits_only(quantum_config):
    backend = make_backend(quantum_config("aer_noisy", device="FakeFez"))
    estimate = backend.estimate(TASK.circuit())
    assert 0.9 < estimate.fidelity < 1.0 and estimate.two_qubit_gates == 2
    assert backend.prepared(TASK.circuit()).circuit.num_qubits == 2
    ideal = run(Statevector(), [TASK], 4000, 0).bits[0]
    noisy = run(backend, [TASK], 4000, 0).bits[0]
    assert abs(float(ideal.double().mean()) - float(noisy.double().mean())) < 0.06


def test_messages_are_scrubbed(monkeypatch):
    protect(TOKEN)
    assert TOKEN not in scrub(f"GET /?x={TOKEN}")
    monkeypatch.setenv("QISKIT_IBM_INSTANCE", "crn:v1:bluemix:private:quantum")
    assert "bluemix" not in scrub("instance crn:v1:bluemix:private:quantum not found")
    assert "abcdef" not in scrub("Authorization: Bearer abcdef")
    assert "hidden" not in scrub('{"apikey": "hidden"}')
    assert scrub("nothing to hide here") == "nothing to hide here"
    assert one_line(ValueError("two\nlines")) == "ValueError: two lines"
    assert one_line(KeyError()) == "KeyError"

"""Whatever becomes of quantum jobs, training ends well, says so once and counts; no token is kept."""

import json
import threading
import time
from types import SimpleNamespace

import pytest

from qdreamer.agents.cli import command_line
from qdreamer.agents.optim import hybrid_config
from qdreamer.agents.training.session import run_session
from qdreamer.quantum.backends.statevector import Statevector
from qdreamer.quantum.circuits.backend import BackendError, Measurement, Usage, run
from qdreamer.quantum.circuits.sampling import FinishedJob
from qdreamer.quantum.jobs.access import CircuitAccess
from qdreamer.quantum.jobs.job_queue import JobQueue

TOKEN = "s3cr3t-t0ken-0123456789-abcdefghijklmnopqrst"
SMALL = (
    *(
        "agent=classical",
        "optimizer=hybrid",
        "optimizer.every=2",
        "optimizer.num_qubits=4",
        "optimizer.fresh=2",
    ),
    *("optimizer.slice=2", "world_model.units=8", "world_model.deter=16", "world_model.hidden=8"),
    *("world_model.stoch=3", "world_model.classes=4", "train.batch_size=4", "train.batch_length=8"),
    *("train.replay_ratio=16", "train.prefill=32", "agent.imagination_starts=2", "evaluation.every=80"),
    *("evaluation.episodes=2", "evaluation.horizon=5", "evaluation.max_steps=20", "logging.every=20"),
    *("logging.writers=[jsonl]", "steps=80"),
)


class Faulty:
    """A backend with one fault."""

    name, in_process, remote = "faulty", False, False

    def __init__(self, fault):
        self.fault, self.ended = fault, threading.Event()

    def submit(self, tasks, shots, seed):
        if self.fault == "raises":
            raise BackendError(f"no luck with apikey={TOKEN}")
        measurement = run(Statevector(), tasks, shots, seed)
        bits = measurement.bits[0]
        if self.fault in ("times out", "answers after the end"):
            return Slow(self.ended, measurement)
        bits = {
            "empty": bits[:, :0],
            "nothing": None,
            "malformed": bits[:, :, 1:],
            "no bits": bits + 7,
        }[self.fault]
        return FinishedJob(Measurement(() if bits is None else (bits,), Usage(1, shots), (None,)))


class Slow(SimpleNamespace):
    id = ""

    def __init__(self, ended, measurement):
        super().__init__(ended=ended, measurement=measurement)

    def result(self, timeout=None):
        self.ended.wait(30)
        return self.measurement

    def cancel(self):
        pass


def last_counts(directory):
    lines = map(json.loads, (directory / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if "optimizer/jobs_submitted" in line][-1]


@pytest.fixture
def patient(monkeypatch):
    """After the first failure a run goes on when no job is under way: it cannot end before the fallback."""
    poll = JobQueue.poll

    def poll_until_answered(self):
        outcomes = poll(self)
        while self.pending and (self.counts.failed or self.counts.timed_out):
            time.sleep(0.005)
            outcomes += poll(self)
        return outcomes

    monkeypatch.setattr(JobQueue, "poll", poll_until_answered)


@pytest.mark.parametrize("wait", [False, pytest.param(True, marks=pytest.mark.long)])
@pytest.mark.parametrize("fault", ["raises", "times out", "empty", "nothing", "malformed", "no bits"])
def test_a_fault_costs_one_warning(make_config, tmp_path, monkeypatch, capsys, patient, fault, wait):
    backend = Faulty(fault)
    monkeypatch.setattr(CircuitAccess, "backend", lambda self, owner: backend)
    settings = ["quantum=aer", "quantum.timeout=0.05", "quantum.retries=1", f"optimizer.wait={wait}"]
    assert run_session(make_config(*SMALL, *settings), tmp_path) == 0
    backend.ended.set()
    out = capsys.readouterr()
    assert "done: 80 steps" in out.out
    assert out.err.count("warning:") == 1 and "simulator" in out.err and TOKEN not in out.err
    log = last_counts(tmp_path)
    assert log["optimizer/jobs_timed_out" if fault == "times out" else "optimizer/jobs_failed"] >= 2
    assert log["optimizer/jobs_fallback"] >= 1


def test_an_answer_after_the_end_harms_nobody(make_config, tmp_path, monkeypatch, capsys):
    backend = Faulty("answers after the end")
    monkeypatch.setattr(CircuitAccess, "backend", lambda self, owner: backend)
    monkeypatch.setattr(hybrid_config, "warm_up", lambda *arguments: None)
    settings = ["quantum=aer", "quantum.timeout=60"]
    before = threading.active_count()
    assert run_session(make_config(*SMALL, *settings), tmp_path) == 0
    assert last_counts(tmp_path)["optimizer/jobs_pending"] == 1.0
    assert threading.active_count() > before
    backend.ended.set()  # now it comes
    for thread in threading.enumerate():
        if thread.name == "quantum job":
            thread.join(5.0)
    out = capsys.readouterr()
    assert "warning" not in out.err and "Traceback" not in out.err


def test_a_budget_that_runs_out(make_config, tmp_path, capsys):
    settings = ["quantum=aer", "quantum.shots=100", "quantum.budget_shots=350", "optimizer.wait=true"]
    assert run_session(make_config(*SMALL, *settings), tmp_path) == 0
    err = capsys.readouterr().err
    assert err.count("warning:") == 1 and "quantum.budget_shots=350 is used up" in err
    log = last_counts(tmp_path)
    assert (log["optimizer/shots"], log["optimizer/budget_shots_left"]) == (300.0, 50.0)
    assert log["optimizer/jobs_fallback"] == log["optimizer/jobs_submitted"] - 3 > 0
    logged = "predicted_base predicted_chosen decrease_base decrease_chosen decrease_taken accepted "
    logged += "approximation_ratio approximation_ratio_mean circuit_depth two_qubit_gates circuits shots"
    assert {f"optimizer/{name}" for name in logged.split()} <= set(log)
    assert {"time/search", "time/optimizer_seconds", "time/optimizer_queue_seconds"} <= set(log)
    assert sum(name.startswith("optimizer/multiplier/") for name in log) == 4


@pytest.fixture
def no_account(monkeypatch, tmp_path):
    """No environment, an empty home."""
    from qiskit_ibm_runtime.accounts import management

    for name in ("TOKEN", "INSTANCE", "CHANNEL", "URL"):
        monkeypatch.delenv(f"QISKIT_IBM_{name}", raising=False)
    monkeypatch.setattr(management, "_DEFAULT_ACCOUNT_CONFIG_JSON_FILE", str(tmp_path / "accounts.json"))


def test_no_account_is_said_before_training(monkeypatch, tmp_path, capsys, no_account):
    arguments = ["train.py", *SMALL, "quantum=ibm", f"runs={tmp_path / 'runs'}"]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as caught:
        command_line.main()
    err = capsys.readouterr().err
    assert caught.value.code == 2
    assert err.count("\n") == 1 and "set QISKIT_IBM_TOKEN and QISKIT_IBM_INSTANCE" in err
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_shows_the_circuit_that_a_device_would_run(make_config, tmp_path, capsys, no_account):
    settings = [
        "quantum=ibm",
        "quantum.device=FakeManilaV2",
        "quantum.dry_run=true",
        "quantum.shots=100",
    ]
    assert run_session(make_config(*SMALL, *settings), tmp_path / "run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "dry run: ibm on FakeManilaV2; nothing is submitted"
    qubits, circuits, calls, depth, gates, fidelity, shots, _ = lines[2].split()[1:]
    assert (qubits, circuits, calls, shots) == ("4", "1", "12", "1200")  # a search at every second update
    assert int(depth) > 0 and float(fidelity) >= 0.5
    assert 6 <= int(gates) < 3 * 6 * 3  # one layer, whatever optimizer.p_layers says
    assert not (tmp_path / "run").exists()


def service(trouble):
    """A stand-in for the runtime service: unreachable, or with a device that breaks."""

    class Service:
        def __init__(self):
            if trouble == "no network":
                raise ConnectionError(f"cannot reach https://iam.cloud.ibm.com?apikey={TOKEN}")

        def least_busy(self, **conditions):
            from qiskit_ibm_runtime.fake_provider import FakeManilaV2

            return FakeManilaV2()

        def job(self, job_id):
            raise LookupError(f"no job {job_id} for {TOKEN}")

    return Service


@pytest.mark.parametrize("trouble", ["no network", "broken device"])
def test_no_token_is_left_anywhere(make_config, tmp_path, monkeypatch, capsys, no_account, trouble):
    """What a run with a token writes and says, with everything that could repeat it going wrong."""
    import qiskit_ibm_runtime

    from qdreamer.quantum.backends.ibm import ExecutorEngine

    def refuse(self, key, seed):
        raise RuntimeError(f"401 unauthorized: Bearer {TOKEN}, {{'token': '{TOKEN}'}}")

    monkeypatch.setenv("QISKIT_IBM_TOKEN", TOKEN)
    monkeypatch.setattr(qiskit_ibm_runtime, "QiskitRuntimeService", service(trouble))
    monkeypatch.setattr(ExecutorEngine, "sampler", refuse)
    config = make_config(
        *SMALL, "quantum=ibm", "quantum.retries=0", "quantum.min_fidelity=0.1", "optimizer.wait=true",
        "logging.writers=[jsonl,tensorboard]",
    )  # fmt: skip
    assert run_session(config, tmp_path / "run") == 0
    out = capsys.readouterr()
    assert "done: 80 steps" in out.out
    assert out.err.count("warning:") == 1 and "simulator" in out.err
    written = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    kinds = {path.suffix for path in written}
    assert {".yaml", ".jsonl", ".pt"} <= kinds and any("tfevents" in path.name for path in written)
    for path in written:
        assert TOKEN.encode() not in path.read_bytes(), path
    assert TOKEN not in out.out + out.err
    last = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in last if "optimizer/searches" in line][-1]
    if trouble == "broken device":
        assert last["optimizer/jobs_failed"] >= 1
    else:
        assert last["optimizer/circuits"] >= 1  # by the simulator

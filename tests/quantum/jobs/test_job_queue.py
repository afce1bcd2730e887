"""The job queue under every kind of trouble, with a backend that can be told to make it."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
import torch

from qdreamer.quantum.backends.statevector import Statevector
from qdreamer.quantum.circuits.backend import BackendError, JobLostError, Measurement, Usage, cost, run
from qdreamer.quantum.circuits.grover_rudolph import AmplitudeTask
from qdreamer.quantum.circuits.sampling import FinishedJob
from qdreamer.quantum.jobs.budget import CircuitBudget
from qdreamer.quantum.jobs.job_queue import MAX_FAILURES, JobQueue, Limits
from qdreamer.quantum.jobs.journal import NAME, JobEntry, Journal

TASK = AmplitudeTask(torch.tensor([[1.0, 0.0, 0.0, 3.0]]))


class Pending:
    """A job that ends when it is told to."""

    def __init__(self, job_id, work):
        self.id, self._work = job_id, work
        self.cancelled = False

    def result(self, timeout=None):
        return self._work()

    def cancel(self):
        self.cancelled = True


class Troubled:
    """A backend whose jobs follow a script: "ok", "raise", "refuse", or a threading.Event to wait for."""

    def __init__(self, script=(), remote=False, default="ok"):
        self.name, self.in_process, self.remote = "troubled", False, remote
        self._script, self._default = list(script), default
        self.jobs, self.collected = [], []
        self._simulator = Statevector()

    def submit(self, tasks, shots, seed):
        step = self._script.pop(0) if self._script else self._default
        if step == "refuse":
            raise BackendError("no connection")

        def work():
            if step == "raise":
                raise BackendError("the device is on fire")
            if isinstance(step, threading.Event):
                step.wait(5.0)
            measurement = run(self._simulator, tasks, shots, seed)
            if step == "nonsense":
                measurement = Measurement(tuple(b + 7 for b in measurement.bits), measurement.usage, (None,))
            return Measurement(measurement.bits, cost(tasks, shots) + Usage(seconds=1.0), (None,))

        job = Pending(f"job-{len(self.jobs)}" if self.remote else "", work)
        self.jobs.append(job)
        return job

    def collect(self, job_id):
        self.collected.append(job_id)
        if job_id == "gone":
            raise JobLostError("no such job")
        return FinishedJob(run(self._simulator, [TASK], 7, 0), job_id)


def queue(backend, warnings, directory=None, budget_shots=None, budget_seconds=None, **limits):
    budget = CircuitBudget(budget_shots, budget_seconds)
    limits = Limits(**({"timeout": 5.0} | limits))
    return JobQueue(backend, limits, warnings.append, directory, budget=budget)


def test_submitting_does_not_wait_and_results_arrive():
    gate, warnings = threading.Event(), []
    q = queue(Troubled([gate]), warnings)
    begin = time.perf_counter()
    number = q.submit([TASK], 100, 3, {"update": 12})
    assert q.poll() == [] and q.pending == 1
    assert time.perf_counter() - begin < 4.0  # the job would wait five
    gate.set()
    (outcome,) = q.wait(5.0)
    assert (outcome.number, outcome.tag) == (number, {"update": 12})
    assert not outcome.fallback and q.pending == 0
    expected = run(Statevector(), [TASK], 100, 3)
    assert torch.equal(outcome.measurement.bits[0], expected.bits[0])
    assert q.metrics()["jobs_finished"] == 1 and q.usage == Usage(1, 100, 1.0, 0.0)
    assert warnings == []


def test_many_jobs_come_back_with_their_own_tags():
    q = queue(Troubled(), [])
    numbers = {q.submit([TASK], 10, seed, {"seed": seed}): seed for seed in range(20)}
    outcomes = q.wait(10.0)
    assert {o.number: o.tag["seed"] for o in outcomes} == numbers
    for o in outcomes:
        assert torch.equal(o.measurement.bits[0], run(Statevector(), [TASK], 10, o.tag["seed"]).bits[0])


@pytest.mark.parametrize("trouble", ["raise", "refuse"])
def test_failures_are_retried_then_simulated_with_one_warning(trouble):
    warnings = []
    q = queue(Troubled([trouble, "ok"]), warnings, retries=1)
    q.submit([TASK], 10, 0)
    (outcome,) = q.wait(5.0)
    assert not outcome.fallback and q.counts.retried == 1 and q.counts.failed == 1 and warnings == []

    q = queue(Troubled(default=trouble), warnings, retries=2)
    for k in range(MAX_FAILURES + 2):  # after three in a row the backend is left alone
        q.submit([TASK], 10, k)
        (outcome,) = q.wait(5.0)
        assert outcome.fallback
        assert torch.equal(outcome.measurement.bits[0], run(Statevector(), [TASK], 10, k).bits[0])
    assert q.counts.fallback == MAX_FAILURES + 2
    assert q.counts.failed == 3 * MAX_FAILURES and q.counts.retried == 2 * MAX_FAILURES
    assert len(warnings) == 1 and "quantum=troubled failed" in warnings[0] and "\n" not in warnings[0]
    assert q.usage == Usage()


def test_answers_that_nobody_can_use_have_their_price(tmp_path):
    q = queue(Troubled(["nonsense", "ok"]), [], tmp_path, retries=1, budget_shots=25, budget_seconds=10.0)
    q.submit([TASK], 10, 0)
    (outcome,) = q.wait(5.0)
    assert not outcome.fallback and q.counts.failed == 1
    assert (q.usage.shots, q.usage.seconds) == (20, 2.0)
    assert q.metrics()["budget_shots_left"] == 5.0
    q.submit([TASK], 10, 1)  # there is nothing left for it
    (outcome,) = q.wait(5.0)
    assert outcome.fallback


def test_a_second_attempt_needs_a_budget_too():
    warnings = []
    q = queue(Troubled(default="nonsense"), warnings, retries=2, budget_shots=15)
    q.submit([TASK], 10, 0)
    (outcome,) = q.wait(5.0)
    assert outcome.fallback and (q.counts.retried, q.usage.shots) == (0, 10)
    assert len(warnings) == 1 and "budget_shots=15 is used up" in warnings[0]


def test_what_the_simulator_does_too_late_costs_nothing():
    gate = threading.Event()

    class Slow:
        rows = 1

        def circuit(self):
            gate.wait(5.0)
            return TASK.circuit()

        def values(self):
            return TASK.values()

    q = queue(Troubled(default="refuse"), [])
    q.submit([Slow()], 10, 0)
    while q.in_flight_shots:  # until the simulator has taken over
        q.poll()
    q.close()
    gate.set()
    deadline = time.monotonic() + 5.0
    while not q.counts.late and time.monotonic() < deadline:
        q.poll()
    assert q.counts.late == 1 and q.usage == Usage()


def test_a_success_in_between_keeps_the_backend():
    q = queue(Troubled(["raise", "raise", "ok", "raise", "raise", "ok"]), [])
    for k in range(6):
        q.submit([TASK], 10, k)
        q.wait(5.0)
    assert q.counts.finished == 2 and q.counts.fallback == 4


def test_time_out_then_late_result_is_discarded_and_counted():
    gate, warnings = threading.Event(), []
    backend = Troubled([gate, "ok"])
    q = queue(backend, warnings, timeout=0.5, retries=1)
    q.submit([TASK], 10, 0, {"n": 1})
    (outcome,) = q.wait(5.0)
    assert not outcome.fallback and q.counts.timed_out == 1 and q.counts.retried == 1
    assert backend.jobs[0].cancelled
    gate.set()
    end = time.monotonic() + 60.0
    while q.counts.late == 0 and time.monotonic() < end:
        assert q.poll() == []
    assert q.counts.late == 1 and q.counts.finished == 1
    assert q.usage.shots == 20  # it ran all the same
    assert warnings == []


def test_nobody_waits_for_a_service_to_cancel_a_job():
    gate = threading.Event()
    backend = Troubled(default=gate, remote=True)
    q = queue(backend, [], timeout=0.05, retries=0)
    q.submit([TASK], 10, 0)
    end = time.monotonic() + 60.0
    while not backend.jobs and time.monotonic() < end:
        time.sleep(0.001)
    backend.jobs[0].cancel = gate.wait  # as long as the service is out of reach
    (outcome,) = q.wait(5.0)
    assert outcome.fallback
    gate.set()


def test_time_outs_end_on_the_simulator():
    gate, warnings = threading.Event(), []
    q = queue(Troubled(default=gate), warnings, timeout=0.05, retries=1)
    q.submit([TASK], 10, 0)
    (outcome,) = q.wait(5.0)
    assert outcome.fallback and q.counts.timed_out == 2
    assert len(warnings) == 1 and "no answer within 0.05 s" in warnings[0]
    gate.set()


def test_budget_of_shots_ends_on_the_simulator(tmp_path):
    warnings = []
    backend = Troubled()
    q = queue(backend, warnings, tmp_path, budget_shots=250)
    for k in range(5):
        q.submit([TASK], 100, k)
    outcomes = q.wait(5.0)
    assert sorted(o.fallback for o in outcomes) == [False, False, True, True, True]
    assert len(backend.jobs) == 2 and q.usage.shots == 200  # jobs under way count as spent
    assert q.metrics()["budget_shots_left"] == 50
    assert len(warnings) == 1 and "quantum.budget_shots=250 is used up" in warnings[0]
    # A restarted run goes on with what is left.
    again = queue(backend, warnings, tmp_path, budget_shots=250)
    again.submit([TASK], 100, 9)
    (outcome,) = again.wait(5.0)
    assert outcome.fallback and len(warnings) == 2


def test_queues_of_one_run_share_its_budget(tmp_path):
    def pair(warnings):
        budget = CircuitBudget(250)
        return [
            JobQueue(Troubled(), Limits(5.0), warnings.append, tmp_path / name, budget=budget)
            for name in ("replay", "optimizer")
        ]

    for name in ("replay", "optimizer"):
        (tmp_path / name).mkdir()
    warnings = []
    queues = pair(warnings)
    for k, q in enumerate((*queues, *queues)):  # the first two are under way when the third comes
        q.submit([TASK], 100, k)
    outcomes = [q.wait(5.0) for q in queues]
    assert [sorted(o.fallback for o in ended) for ended in outcomes] == [[False, True], [False, True]]
    assert [q.usage.shots for q in queues] == [100, 100]
    assert [q.metrics()["budget_shots_left"] for q in queues] == [50, 50]
    assert len(warnings) == 2  # each says what becomes of its jobs
    # A restarted run adds up what both have spent.
    again = pair(warnings)
    again[1].submit([TASK], 100, 9)
    (outcome,) = again[1].wait(5.0)
    assert outcome.fallback


def test_budget_of_seconds():
    warnings = []
    q = queue(Troubled(), warnings, budget_seconds=1.5)
    fallbacks = []
    for k in range(4):
        q.submit([TASK], 10, k)
        fallbacks += [o.fallback for o in q.wait(5.0)]
    assert fallbacks == [False, False, True, True]
    assert len(warnings) == 1 and "quantum.budget_seconds=1.5" in warnings[0]
    assert q.metrics()["budget_seconds_left"] == 0.0


def test_nothing_can_run_an_impossible_job():
    class Impossible:
        rows = 1

        def circuit(self):
            raise ValueError("cannot be built")

    warnings = []
    q = queue(Troubled(default="refuse"), warnings)
    q.submit([Impossible()], 10, 0)
    (outcome,) = q.wait(5.0)
    assert outcome.measurement is None and q.counts.lost == 1 and len(warnings) == 1


def test_closing_gives_up_local_jobs_and_keeps_remote_ones(tmp_path):
    for remote in (False, True):
        gate = threading.Event()
        backend = Troubled([gate], remote=remote)
        q = queue(backend, [], tmp_path)
        q.submit([TASK], 10, 0)
        end = time.monotonic() + 60.0
        while time.monotonic() < end and not (Journal(tmp_path).entries if remote else backend.jobs):
            time.sleep(0.001)
        time.sleep(0.05)  # for the queue to hear of it
        assert q.close() == []
        gate.set()
        assert q.counts.dropped == (0 if remote else 1)
        with pytest.raises(RuntimeError, match="closed"):
            q.submit([TASK], 10, 0)
    assert set(Journal(tmp_path).entries) == {"job-0"}


# The journal


def test_ids_are_on_disk_while_jobs_run_and_gone_afterwards(tmp_path):
    gate = threading.Event()
    q = queue(Troubled([gate], remote=True), [], tmp_path)
    q.submit([TASK], 10, 0, {"update": 5})
    end = time.monotonic() + 60.0
    while not (tmp_path / NAME).exists() and time.monotonic() < end:
        time.sleep(0.001)
    (entry,) = json.loads((tmp_path / NAME).read_text())["jobs"]
    assert (entry["job_id"], entry["backend"], entry["shots"]) == ("job-0", "troubled", 10)
    assert entry["tag"] == {"update": 5}
    gate.set()
    q.wait(5.0)
    assert Journal(tmp_path).entries == {}


def test_a_restarted_run_collects_its_jobs(tmp_path):
    journal = Journal(tmp_path)
    journal.add(JobEntry("job-7", "troubled", 7, 0.0, {"update": 5}))
    journal.add(JobEntry("gone", "troubled", 7, 0.0, {"update": 6}))
    journal.add(JobEntry("elsewhere", "ibm", 7, 0.0, {}))
    backend, warnings = Troubled(remote=True), []
    q = queue(backend, warnings, tmp_path, retries=3)
    outcomes = q.wait(5.0)
    assert sorted(backend.collected) == ["gone", "job-7"]
    good = [o for o in outcomes if o.measurement is not None]
    assert [(o.tag, o.recovered) for o in good] == [({"update": 5}, True)]
    assert good[0].measurement.bits[0].shape == (1, 7, 2)
    assert q.counts.recovered == 1 and q.counts.lost == 2 and len(warnings) == 1
    assert Journal(tmp_path).entries == {}


def test_jobs_of_a_process_end_with_it(tmp_path):
    Journal(tmp_path).add(JobEntry("job-7", "troubled", 7, 0.0, {}))
    q = queue(Troubled(remote=False), [], tmp_path)
    assert q.pending == 0 and q.counts.lost == 1


def test_a_damaged_journal_is_put_aside(tmp_path):
    (tmp_path / NAME).write_text('{"format": 1, "jobs": [')
    warnings = []
    q = queue(Troubled(remote=True), warnings, tmp_path)
    assert "damaged" in warnings[0] and q.pending == 0
    assert list(tmp_path.glob("*.damaged"))


@pytest.mark.processes
def test_a_kill_between_submission_and_result_leaves_a_readable_file(tmp_path):
    """A process that submits one job after another is killed at some instant, several times."""
    program = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from qdreamer.quantum.jobs.journal import JobEntry, Journal
        journal = Journal(Path(sys.argv[1]))
        known = k = len(journal.entries)
        while True:
            journal.add(JobEntry(f"job-{k}", "ibm", 10, 0.0, {"update": k}))
            journal.used(k, k / 2)
            k += 1
            if k == known + 1:  # however busy the machine is
                print("ready", flush=True)
        """
    )
    known = 0
    for delay in (0.02, 0.05, 0.03):
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[3],
        )
        process.stdout.readline()
        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        journal = Journal(tmp_path)
        assert not journal.damaged and len(journal.entries) > known
        known = len(journal.entries)
        assert set(journal.entries) == {f"job-{k}" for k in range(known)}

"""Jobs that nobody waits for.

`submit` returns at once, threads wait for the backend, `poll` hands over what has arrived. A job that
takes too long or fails is tried again, a few times, and then runs on the in-process simulator; so does
every job once the budget is used up or three jobs in a row have failed. All of that is said once and
counted. All decisions are taken in `submit` and `poll`, by the thread that calls them: the others only
report.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from qdreamer.quantum.backends.credentials import one_line
from qdreamer.quantum.backends.statevector import Statevector
from qdreamer.quantum.circuits.backend import (
    Backend,
    BackendError,
    Job,
    JobTimeoutError,
    Measurement,
    Task,
    Usage,
    cost,
)
from qdreamer.quantum.config import QuantumConfig
from qdreamer.quantum.jobs.budget import Budget
from qdreamer.quantum.jobs.journal import JobEntry, Journal

PAUSE = 0.1  # seconds before the second attempt, doubled before each further one
CANCELLING = 2.0  # seconds for a service to take a cancellation when the queue is closed
MAX_FAILURES = 3  # jobs in a row that fail for good, then the backend is left alone


@dataclass(frozen=True)
class Limits:
    """How long a job may take and how often it is tried."""

    timeout: float  # seconds from submission to result
    retries: int = 0  # after the first attempt

    @classmethod
    def from_config(cls, config: QuantumConfig) -> "Limits":
        return cls(config.timeout, config.retries)


@dataclass
class Counts:
    """What happened to jobs so far."""

    submitted: int = 0
    finished: int = 0  # by the backend
    retried: int = 0
    timed_out: int = 0  # attempts
    failed: int = 0  # attempts that ended with an error
    fallback: int = 0  # jobs that the simulator did instead
    late: int = 0  # results that came after nobody wanted them any more
    dropped: int = 0  # jobs given up by their owner, or by the end of the run
    recovered: int = 0  # jobs of an earlier process that were collected
    lost: int = 0  # jobs of an earlier process that could not be, and jobs that nothing could run


@dataclass(frozen=True, eq=False)
class JobResult:
    """A job's end. `measurement` is None if it was lost; `tag` is what its owner gave."""

    number: int
    tag: dict[str, Any]
    measurement: Measurement | None
    fallback: bool  # measured by the simulator
    recovered: bool  # submitted by an earlier process


@dataclass(eq=False)
class PendingJob:
    """A job under way."""

    number: int
    tag: dict[str, Any]
    tasks: Sequence[Task]  # empty for jobs of an earlier process
    shots: int
    seed: int
    total_shots: int
    attempt: int = 0
    deadline: float = float("inf")
    fallback: bool = False
    recovered: bool = False
    job: Job | None = None
    job_id: str = ""


@dataclass(frozen=True, eq=False)
class Event:
    """What a thread reports about one attempt: its job, or its end."""

    number: int
    attempt: int
    job: Job | None = None
    measurement: Measurement | None = None
    error: BaseException | None = None
    spent: Usage | None = None  # of an answer that nobody can use
    fallback: bool = False  # of the simulator's, which costs nothing


@dataclass(eq=False)
class JobQueue:
    """Owns submission to one backend.

    `directory` keeps the ids of jobs in flight (only of backends whose jobs outlive the process);
    a new queue on it collects them. `warn` receives the one warning. Queues of one run share its `budget`.
    """

    backend: Backend
    limits: Limits
    warn: Callable[[str], None]
    directory: Path | None = None
    budget: Budget = field(default_factory=Budget)
    counts: Counts = field(default_factory=Counts)
    usage: Usage = field(default_factory=Usage)  # of the backend, not of the fallback

    def __post_init__(self) -> None:
        self._simulator = Statevector()
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._pending: dict[int, PendingJob] = {}
        self._journal = Journal(self.directory)
        self._numbers = itertools.count(1)
        self._failures = 0  # jobs in a row
        self._abandoned = False
        self._warned = False
        self._closed = False
        self.usage = Usage(0, self._journal.shots, self._journal.seconds, 0.0)
        self.budget.accounts.append(self)
        if self._journal.damaged:
            self.warn(f"{self.directory}'s list of quantum jobs was damaged: jobs in it are lost")
        self._recover()

    @property
    def pending(self) -> int:
        """Jobs under way."""
        return len(self._pending)

    @property
    def remote(self) -> bool:
        """True when its jobs run on a device."""
        return self.backend.remote

    @property
    def in_flight_shots(self) -> int:
        """Shots of the jobs under way, the fallback's left out."""
        return sum(pending.total_shots for pending in self._pending.values() if not pending.fallback)

    def submit(self, tasks: Sequence[Task], shots: int, seed: int, tag: dict[str, Any] | None = None) -> int:
        """Start a job; its number. `tag` is plain JSON that comes back with the outcome, also after a
        restart. Raises RuntimeError after `close`."""
        if self._closed:
            raise RuntimeError("the queue is closed")
        total = cost(tasks, shots).shots
        pending = PendingJob(next(self._numbers), tag or {}, tasks, shots, seed, total)
        self.counts.submitted += 1
        self._pending[pending.number] = pending
        over = self.budget.used_up()
        if over is not None:
            self._switch_to_fallback(over)
        self._start(pending, fallback=self._abandoned)
        return pending.number

    def poll(self) -> list[JobResult]:
        """Everything that ended since the last call. Never waits."""
        outcomes = []
        while True:
            try:
                event = self._events.get_nowait()
            except Empty:
                break
            outcome = self._take(event)
            if outcome is not None:
                outcomes.append(outcome)
        now = time.monotonic()
        for pending in [t for t in self._pending.values() if now > t.deadline]:
            outcome = self._failed(pending, JobTimeoutError(f"no answer within {self.limits.timeout:g} s"))
            if outcome is not None:
                outcomes.append(outcome)
        return outcomes

    def wait(self, seconds: float) -> list[JobResult]:
        """Poll until nothing is under way, at most this long. For ends of runs, and tests."""
        end = time.monotonic() + seconds
        outcomes = self.poll()
        while self._pending and time.monotonic() < end:
            time.sleep(0.005)
            outcomes += self.poll()
        return outcomes

    def close(self, grace: float = 0.0) -> list[JobResult]:
        """Take no more jobs; what ends within `grace` seconds still counts.

        Jobs of a service stay in the directory's list for the next run; others are given up.
        """
        self._closed = True
        outcomes = self.wait(grace)
        for pending in list(self._pending.values()):
            if not pending.job_id:
                self.counts.dropped += 1
                self._forget(pending)
        self._pending.clear()
        return outcomes

    def metrics(self) -> dict[str, float]:
        """Counts, costs and what is left of the budget, for a log."""
        out = {f"jobs_{key}": float(value) for key, value in asdict(self.counts).items()}
        out |= {key: float(value) for key, value in asdict(self.usage).items()}
        out["jobs_pending"] = float(self.pending)
        return out | self.budget.left()

    def go_on_from(self, usage: Usage) -> None:
        """The costs of earlier sessions, from a checkpoint; of budgets the journal knows better."""
        self.usage = replace(self.usage, circuits=usage.circuits) if self.budget.limited else usage

    def _say(self, text: str) -> None:
        if not self._warned:
            self._warned = True
            self.warn(text)

    def _switch_to_fallback(self, why: str) -> None:
        self._abandoned = True
        self._say(f"{why}: quantum jobs run on the in-process simulator from now on")

    def _start(self, pending: PendingJob, fallback: bool) -> None:
        pending.attempt += 1
        pending.fallback, pending.job, pending.job_id = fallback, None, ""
        backend: Backend = self._simulator if fallback else self.backend
        pause = 0.0 if fallback or pending.attempt == 1 else PAUSE * 2 ** (pending.attempt - 2)
        pending.deadline = float("inf") if fallback else time.monotonic() + pause + self.limits.timeout
        arguments = (pending, pending.attempt, backend, pause)
        Thread(target=self._work, args=arguments, daemon=True, name="quantum job").start()

    def _work(self, pending: PendingJob, attempt: int, backend: Backend, pause: float) -> None:
        """One attempt, in a thread of its own: nothing here may touch the queue's state."""
        spent = None
        try:
            time.sleep(pause)
            job = backend.submit(pending.tasks, pending.shots, pending.seed)
            if job.id:
                entry = JobEntry(job.id, backend.name, pending.total_shots, time.time(), pending.tag)
                self._journal.add(entry)
            self._events.put(Event(pending.number, attempt, job=job))
            measurement = job.result(None if backend is self._simulator else self.limits.timeout)
            spent = measurement.usage
            check_answer(pending.tasks, pending.shots, measurement)
            simulated = backend is self._simulator
            self._events.put(Event(pending.number, attempt, measurement=measurement, fallback=simulated))
        except BaseException as error:
            self._events.put(Event(pending.number, attempt, error=error, spent=spent))

    def _recover(self) -> None:
        """Ask for the jobs that an earlier process left behind."""
        for entry in list(self._journal.entries.values()):
            pending = PendingJob(
                next(self._numbers), entry.tag, (), 0, 0, entry.shots, attempt=1, recovered=True
            )
            if entry.backend != self.backend.name or not self.backend.remote:
                self.counts.lost += 1
                self._journal.remove(entry.job_id)
                continue
            pending.deadline = time.monotonic() + self.limits.timeout
            pending.job_id = entry.job_id
            self._pending[pending.number] = pending
            arguments = (pending.number, entry.job_id)
            Thread(target=self._collect, args=arguments, daemon=True, name="quantum job").start()

    def _collect(self, number: int, job_id: str) -> None:
        try:
            measurement = self.backend.collect(job_id).result(self.limits.timeout)
            self._events.put(Event(number, 1, measurement=measurement))
        except BaseException as error:
            self._events.put(Event(number, 1, error=error))

    def _take(self, event: Event) -> JobResult | None:
        pending = self._pending.get(event.number)
        if pending is None or pending.attempt != event.attempt:
            self._late(event)
            return None
        if event.job is not None:
            pending.job, pending.job_id = event.job, event.job.id
            return None
        if event.measurement is None:
            assert event.error is not None
            if event.spent is not None and not pending.fallback:
                self._charge(event.spent)
            return self._failed(pending, event.error)
        if pending.fallback:
            self.counts.fallback += 1
        else:
            self._failures = 0
            self._charge(event.measurement.usage)
            if pending.recovered:
                self.counts.recovered += 1
            else:
                self.counts.finished += 1
        return self._end(pending, event.measurement)

    def _late(self, event: Event) -> None:
        """News of an attempt that was given up."""
        if event.job is not None:
            self._cancel(event.job)
            if event.job.id:
                self._journal.remove(event.job.id)
        elif event.measurement is not None:
            self.counts.late += 1
            if not event.fallback:
                self._charge(event.measurement.usage)
        elif event.spent is not None:
            self._charge(event.spent)

    def _charge(self, usage: Usage) -> None:
        self.usage = self.usage + usage
        if self.budget.limited:  # a restarted run goes on with what is left
            self._journal.used(self.usage.shots, self.usage.seconds)

    def _end(self, pending: PendingJob, measurement: Measurement | None) -> JobResult:
        del self._pending[pending.number]
        if pending.job_id:
            self._journal.remove(pending.job_id)
        return JobResult(pending.number, pending.tag, measurement, pending.fallback, pending.recovered)

    def _failed(self, pending: PendingJob, error: BaseException) -> JobResult | None:
        """Try again, or on the simulator, or give up: jobs of an earlier process cannot be repeated."""
        if isinstance(error, JobTimeoutError):
            self.counts.timed_out += 1
        else:
            self.counts.failed += 1
        if pending.recovered or pending.fallback:
            self.counts.lost += 1
            self._say(f"a quantum job was lost ({one_line(error)})")
            return self._end(pending, None)
        self._forget(pending)
        over = self.budget.used_up()  # what failed may have had its price
        if over is not None:
            self._switch_to_fallback(over)
        if pending.attempt <= self.limits.retries and not self._abandoned:
            self.counts.retried += 1
            self._start(pending, fallback=False)
            return None
        self._failures += 1
        self._abandoned = self._abandoned or self._failures >= MAX_FAILURES
        self._say(
            f"quantum={self.backend.name} failed ({one_line(error)}): its jobs run on the in-process "
            f"simulator when that happens, and all of them after {MAX_FAILURES} in a row"
        )
        self._start(pending, fallback=True)
        return None

    def _forget(self, pending: PendingJob) -> None:
        """Give up an attempt."""
        if pending.job is not None:
            self._cancel(pending.job)
        if pending.job_id:
            self._journal.remove(pending.job_id)

    def _cancel(self, job: Job) -> None:
        """A service that does not answer may not answer this either: nobody waits for it."""
        if not self.backend.remote:
            job.cancel()
            return
        thread = Thread(target=job.cancel, daemon=True, name="quantum job")
        thread.start()
        if self._closed:  # the process may end before it was asked
            thread.join(CANCELLING)


def check_answer(tasks: Sequence[Task], shots: int, measurement: Measurement) -> None:
    """Raises BackendError unless the measurement holds bits (R, S, n) of every task, each 0 or 1."""
    wanted = [(task.rows, shots, task.circuit().qubits) for task in tasks]
    shapes = [tuple(bits.shape) for bits in measurement.bits]
    if shapes != wanted:
        raise BackendError(f"an answer of shape {_shown(shapes)} instead of {_shown(wanted)}")
    if any(bool((bits > 1).any()) for bits in measurement.bits):
        raise BackendError("an answer with invalid bits")


def _shown(shapes: Sequence[tuple[int, ...]]) -> str:
    return ", ".join(map(str, shapes[:3])) + (", …" if len(shapes) > 3 else "") if shapes else "nothing"

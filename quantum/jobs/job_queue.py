"""Jobs that nobody waits for.

`submit` returns at once, threads wait for the backend, `poll` hands over what has arrived. A job that
takes too long or fails is tried again, a few times, and then runs on the in-process simulator; so does
every job once the budget is used up or three jobs in a row have failed. All of that is said once and
counted. All decisions are taken in `submit` and `poll`, by the thread that calls them: the others only
report.
"""

import functools
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
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
from qdreamer.quantum.jobs.budget import CircuitBudget
from qdreamer.quantum.jobs.journal import JobEntry, Journal

PAUSE = 0.1  # seconds before the second attempt, doubled before each further one
CANCELLING = 2.0  # seconds for a service to take a cancellation when the queue is closed
MAX_FAILURES = 3  # jobs in a row that fail for good, then the backend is left alone
NO_COST = Usage()


@dataclass(frozen=True)
class Limits:
    """How long a job may take and how often it is tried."""

    timeout: float  # seconds from submission to result
    retries: int = 0  # after the first attempt


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
    spent: Usage = NO_COST  # by the backend: the simulator's answers cost nothing


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
    budget: CircuitBudget = field(default_factory=CircuitBudget)
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
        """Start a job, and return its number. Raises RuntimeError after `close`.

        `tag` is plain JSON that comes back with the outcome, also after a restart.
        """
        if self._closed:
            raise RuntimeError("the queue is closed")
        total = cost(tasks, shots).shots
        pending = PendingJob(next(self._numbers), tag or {}, tasks, shots, seed, total)
        self.counts.submitted += 1
        self._pending[pending.number] = pending
        self._check_budget()
        self._start(pending, fallback=self._abandoned)
        return pending.number

    def poll(self) -> list[JobResult]:
        """Return everything that ended since the last call. Never waits."""
        outcomes = [self._take(self._events.get_nowait()) for _ in range(self._events.qsize())]
        now = time.monotonic()
        for pending in [job for job in self._pending.values() if now > job.deadline]:
            error = JobTimeoutError(f"no answer within {self.limits.timeout:g} s")
            outcomes.append(self._failed(pending, error))
        return [outcome for outcome in outcomes if outcome is not None]

    def wait(self, seconds: float) -> list[JobResult]:
        """Poll until nothing is under way, at most this long."""
        end = time.monotonic() + seconds
        outcomes = self.poll()
        while self._pending and time.monotonic() < end:
            time.sleep(0.005)
            outcomes += self.poll()
        return outcomes

    def close(self) -> list[JobResult]:
        """Take no more jobs, and return what ended since the last `poll`.

        Jobs of a service stay in the directory's list for the next run; others are given up.
        """
        self._closed = True
        outcomes = self.poll()
        for pending in list(self._pending.values()):
            if not pending.job_id:
                self.counts.dropped += 1
                self._forget(pending.job)
        self._pending.clear()
        return outcomes

    def metrics(self) -> dict[str, float]:
        """Return counts, costs and what is left of the budget, for a log."""
        out = {f"jobs_{key}": float(value) for key, value in asdict(self.counts).items()}
        out |= {key: float(value) for key, value in asdict(self.usage).items()}
        out["jobs_pending"] = float(self.pending)
        return out | self.budget.left()

    def go_on_from(self, counts: Counts, usage: Usage) -> None:
        """Add what earlier sessions counted and spent, by a checkpoint; of budgets the journal knows more."""
        lost = self.counts.lost  # found out when the queue was made
        self.counts = replace(counts, lost=counts.lost + lost)
        self.usage = replace(self.usage, circuits=usage.circuits) if self.budget.limited else usage

    def _say(self, text: str) -> None:
        if not self._warned:
            self._warned = True
            self.warn(text)

    def _check_budget(self) -> None:
        """Leave the backend alone once the budget is used up."""
        over = self.budget.used_up()
        if over is not None:
            self._abandoned = True
            self._say(f"{over}: quantum jobs run on the in-process simulator from now on")

    def _start(self, pending: PendingJob, fallback: bool) -> None:
        pending.attempt += 1
        pending.fallback, pending.job, pending.job_id = fallback, None, ""
        backend: Backend = self._simulator if fallback else self.backend
        pause = 0.0 if fallback or pending.attempt == 1 else PAUSE * 2 ** (pending.attempt - 2)
        pending.deadline = float("inf") if fallback else time.monotonic() + pause + self.limits.timeout
        _start_thread(self._work, pending, pending.attempt, backend, pause)

    def _work(self, pending: PendingJob, attempt: int, backend: Backend, pause: float) -> None:
        """Make one attempt, in a thread of its own: nothing here may touch the queue's state."""
        report = functools.partial(Event, pending.number, attempt)
        simulated, spent = backend is self._simulator, NO_COST
        try:
            time.sleep(pause)
            if pending.recovered:
                measurement = backend.collect(pending.job_id).result(self.limits.timeout)
            else:
                job = backend.submit(pending.tasks, pending.shots, pending.seed)
                if job.id:
                    entry = JobEntry(job.id, backend.name, pending.total_shots, time.time(), pending.tag)
                    self._journal.add(entry)
                self._events.put(report(job=job))
                measurement = job.result(None if simulated else self.limits.timeout)
            spent = NO_COST if simulated else measurement.usage
            if not pending.recovered:  # else nobody knows what was asked for
                check_answer(pending.tasks, pending.shots, measurement)
            self._events.put(report(measurement=measurement, spent=spent))
        except BaseException as error:
            self._events.put(report(error=error, spent=spent))

    def _recover(self) -> None:
        """Ask for the jobs that an earlier process left behind."""
        for entry in list(self._journal.entries.values()):
            if entry.backend != self.backend.name or not self.backend.remote:
                self.counts.lost += 1
                self._journal.remove(entry.job_id)
                continue
            deadline = time.monotonic() + self.limits.timeout
            pending = PendingJob(
                next(self._numbers), entry.tag, (), 0, 0, entry.shots, 1, deadline,
                recovered=True, job_id=entry.job_id,
            )  # fmt: skip
            self._pending[pending.number] = pending
            _start_thread(self._work, pending, pending.attempt, self.backend, 0.0)

    def _take(self, event: Event) -> JobResult | None:
        pending = self._pending.get(event.number)
        if pending is None or pending.attempt != event.attempt:  # news of an attempt that was given up
            self._forget(event.job)
            self.counts.late += event.measurement is not None
            self._charge(event.spent)
            return None
        if event.job is not None:
            pending.job, pending.job_id = event.job, event.job.id
            return None
        self._charge(event.spent)
        if event.error is not None:
            return self._failed(pending, event.error)
        assert event.measurement is not None
        if pending.fallback:
            self.counts.fallback += 1
        else:
            self._failures = 0
            self.counts.recovered += pending.recovered
            self.counts.finished += not pending.recovered
        return self._end(pending, event.measurement)

    def _charge(self, usage: Usage) -> None:
        self.usage += usage
        if self.budget.limited and usage != NO_COST:  # a restarted run goes on with what is left
            self._journal.used(self.usage.shots, self.usage.seconds)

    def _end(self, pending: PendingJob, measurement: Measurement | None) -> JobResult:
        del self._pending[pending.number]
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
        self._forget(pending.job)
        self._check_budget()  # what failed may have had its price
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

    def _forget(self, job: Job | None) -> None:
        """Give up an attempt; nobody waits for a service, which may not answer a cancellation either."""
        if job is None:
            return
        if self.backend.remote:
            thread = _start_thread(job.cancel)
            if self._closed:  # the process may end before it was asked
                thread.join(CANCELLING)
        else:
            job.cancel()
        self._journal.remove(job.id)


def _start_thread(work: Callable[..., None], *arguments: Any) -> Thread:
    thread = Thread(target=work, args=arguments, daemon=True, name="quantum job")
    thread.start()
    return thread


def check_answer(tasks: Sequence[Task], shots: int, measurement: Measurement) -> None:
    """Raises BackendError unless the measurement holds bits (R, S, n) of every task, each 0 or 1."""
    wanted = [(task.rows, shots, task.circuit().qubits) for task in tasks]
    shapes = [tuple(bits.shape) for bits in measurement.bits]
    if shapes != wanted:
        raise BackendError(f"an answer of shape {shapes} instead of {wanted}")
    if any(bool((bits > 1).any()) for bits in measurement.bits):
        raise BackendError("an answer with invalid bits")

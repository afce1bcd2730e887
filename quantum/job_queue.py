"""Jobs that nobody waits for.

`submit` returns at once, threads wait for the backend, `poll` hands over what has arrived. A job that
takes too long or fails is tried again, a few times, and then runs on the in-process simulator; so does
every job once the budget is used up or three jobs in a row have failed. All of that is said once and
counted. All decisions are taken in `submit` and `poll`, by the thread that calls them: the others only
report.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from quantum.backend import Backend, Job, JobTimeoutError, Measurement, Task, Usage, check_answer, cost
from quantum.config import QuantumConfig
from quantum.credentials import one_line
from quantum.journal import Entry, Journal
from quantum.spending import Spending, spending
from quantum.statevector import Statevector

PAUSE = 0.1  # seconds before the second attempt, doubled before each further one
CANCELLING = 2.0  # seconds for a service to take a cancellation when the queue is closed
MAX_FAILURES = 3  # jobs in a row that fail for good, then the backend is left alone


@dataclass(frozen=True)
class Limits:
    """How long a job may take, how often it is tried, what all jobs may cost."""

    timeout: float  # seconds from submission to result
    retries: int = 0  # after the first attempt
    budget_shots: int | None = None
    budget_seconds: float | None = None  # of execution

    @classmethod
    def from_config(cls, config: QuantumConfig) -> "Limits":
        return cls(config.timeout, config.retries, config.budget_shots, config.budget_seconds)


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
class Outcome:
    """A job's end. `measurement` is None if it was lost; `tag` is what its owner gave."""

    ticket: int
    tag: dict[str, Any]
    measurement: Measurement | None
    backend: str  # who measured
    fallback: bool
    recovered: bool
    seconds: float  # from submission to now


@dataclass(eq=False)
class _Ticket:
    number: int
    tag: dict[str, Any]
    tasks: Sequence[Task]  # empty for jobs of an earlier process
    shots: int
    seed: int
    begin: float
    total_shots: int
    attempt: int = 0
    deadline: float = float("inf")
    fallback: bool = False
    recovered: bool = False
    job: Job | None = None
    job_id: str = ""


@dataclass(frozen=True, eq=False)
class _Event:
    """What a thread reports about one attempt: its job, or its end."""

    ticket: int
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
    a new queue on it collects them. `inline` runs jobs within `submit`: for the in-process simulator,
    which answers sooner than a thread starts, and reproducibly. `warn` receives the one warning.
    """

    backend: Backend
    limits: Limits
    warn: Callable[[str], None]
    directory: Path | None = None
    inline: bool = False
    counts: Counts = field(default_factory=Counts)
    usage: Usage = field(default_factory=Usage)  # of the backend, not of the fallback

    def __post_init__(self) -> None:
        self._simulator = Statevector()
        self._events: SimpleQueue[_Event] = SimpleQueue()
        self._tickets: dict[int, _Ticket] = {}
        self._journal = Journal(self.directory)
        self._number = 0
        self._failures = 0  # jobs in a row
        self._abandoned = False
        self._warned = False
        self._closed = False
        self.usage = Usage(0, self._journal.shots, self._journal.seconds, 0.0)
        if self._journal.damaged:
            self.warn(f"{self.directory}'s list of quantum jobs was damaged: jobs in it are lost")
        self._recover()

    @property
    def pending(self) -> int:
        """Jobs under way."""
        return len(self._tickets)

    @property
    def using_backend(self) -> bool:
        """Whether new jobs still go to the backend."""
        return not self._abandoned

    def submit(self, tasks: Sequence[Task], shots: int, seed: int, tag: dict[str, Any] | None = None) -> int:
        """Start a job; its number. `tag` is plain JSON that comes back with the outcome, also after a
        restart. Raises RuntimeError after `close`."""
        if self._closed:
            raise RuntimeError("the queue is closed")
        total = cost(tasks, shots).shots
        ticket = _Ticket(self._next(), tag or {}, tasks, shots, seed, time.monotonic(), total)
        self.counts.submitted += 1
        self._tickets[ticket.number] = ticket
        over = self._over_budget(total)
        if over is not None:
            self._give_up(over)
        self._start(ticket, fallback=self._abandoned)
        return ticket.number

    def poll(self) -> list[Outcome]:
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
        for ticket in [t for t in self._tickets.values() if now > t.deadline]:
            outcome = self._failed(ticket, JobTimeoutError(f"no answer within {self.limits.timeout:g} s"))
            if outcome is not None:
                outcomes.append(outcome)
        return outcomes

    def wait(self, seconds: float) -> list[Outcome]:
        """Poll until nothing is under way, at most this long. For ends of runs, and tests."""
        end = time.monotonic() + seconds
        outcomes = self.poll()
        while self._tickets and time.monotonic() < end:
            time.sleep(0.005)
            outcomes += self.poll()
        return outcomes

    def discard(self, number: int) -> None:
        """Nobody wants this job any more: it is cancelled if it can be, and counted if it ends."""
        ticket = self._tickets.pop(number, None)
        if ticket is not None:
            self.counts.dropped += 1
            self._forget(ticket)

    def close(self, grace: float = 0.0) -> list[Outcome]:
        """Take no more jobs; what ends within `grace` seconds still counts.

        Jobs of a service stay in the directory's list for the next run; others are given up.
        """
        self._closed = True
        outcomes = self.wait(grace)
        for ticket in list(self._tickets.values()):
            if not ticket.job_id:
                self.counts.dropped += 1
                self._forget(ticket)
        self._tickets.clear()
        return outcomes

    def metrics(self) -> dict[str, float]:
        """Counts, costs and what is left of the budget, for a log."""
        out = {f"jobs_{key}": float(value) for key, value in asdict(self.counts).items()}
        out |= {key: float(value) for key, value in asdict(self.usage).items()}
        out["jobs_pending"] = float(self.pending)
        if self.limits.budget_shots is not None:
            out["budget_shots_left"] = float(max(0, self.limits.budget_shots - self.usage.shots))
        if self.limits.budget_seconds is not None:
            out["budget_seconds_left"] = max(0.0, self.limits.budget_seconds - self.usage.seconds)
        return out

    def spending(self) -> Spending:
        """What its jobs have cost, the fallback's left out."""
        return spending(self.usage, self.backend.remote)

    def go_on_from(self, usage: Usage) -> None:
        """The costs of earlier sessions, from a checkpoint; of budgets the journal knows better."""
        if self.limits.budget_shots is None and self.limits.budget_seconds is None:
            self.usage = usage
        else:
            self.usage = replace(self.usage, circuits=usage.circuits)

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _say(self, text: str) -> None:
        if not self._warned:
            self._warned = True
            self.warn(text)

    def _give_up(self, why: str) -> None:
        self._abandoned = True
        self._say(f"{why}: quantum jobs run on the in-process simulator from now on")

    def _over_budget(self, shots: int) -> str | None:
        limits = self.limits
        flying = sum(t.total_shots for t in self._tickets.values() if not t.fallback) - shots
        if limits.budget_shots is not None and self.usage.shots + flying + shots > limits.budget_shots:
            return f"the budget of quantum.budget_shots={limits.budget_shots} is used up"
        if limits.budget_seconds is not None and self.usage.seconds >= limits.budget_seconds:
            return f"the budget of quantum.budget_seconds={limits.budget_seconds:g} is used up"
        return None

    def _start(self, ticket: _Ticket, fallback: bool) -> None:
        ticket.attempt += 1
        ticket.fallback, ticket.job, ticket.job_id = fallback, None, ""
        backend: Backend = self._simulator if fallback else self.backend
        pause = 0.0 if fallback or ticket.attempt == 1 else PAUSE * 2 ** (ticket.attempt - 2)
        ticket.deadline = float("inf") if fallback else time.monotonic() + pause + self.limits.timeout
        arguments = (ticket, ticket.attempt, backend, 0.0 if self.inline else pause)
        if self.inline:
            self._work(*arguments)
        else:
            Thread(target=self._work, args=arguments, daemon=True, name="quantum job").start()

    def _work(self, ticket: _Ticket, attempt: int, backend: Backend, pause: float) -> None:
        """One attempt, in a thread of its own: nothing here may touch the queue's state."""
        spent = None
        try:
            time.sleep(pause)
            job = backend.submit(ticket.tasks, ticket.shots, ticket.seed)
            if job.id:
                entry = Entry(job.id, backend.name, ticket.total_shots, time.time(), ticket.tag)
                self._journal.add(entry)
            self._events.put(_Event(ticket.number, attempt, job=job))
            measurement = job.result(None if backend is self._simulator else self.limits.timeout)
            spent = measurement.usage
            check_answer(ticket.tasks, ticket.shots, measurement)
            simulated = backend is self._simulator
            self._events.put(_Event(ticket.number, attempt, measurement=measurement, fallback=simulated))
        except BaseException as error:
            self._events.put(_Event(ticket.number, attempt, error=error, spent=spent))

    def _recover(self) -> None:
        """Ask for the jobs that an earlier process left behind."""
        for entry in list(self._journal.entries.values()):
            ticket = _Ticket(
                self._next(), entry.tag, (), 0, 0, time.monotonic(), entry.shots, 1, recovered=True
            )
            if entry.backend != self.backend.name or not self.backend.remote:
                self.counts.lost += 1
                self._journal.remove(entry.job_id)
                continue
            ticket.deadline = time.monotonic() + self.limits.timeout
            ticket.job_id = entry.job_id
            self._tickets[ticket.number] = ticket
            arguments = (ticket.number, entry.job_id)
            Thread(target=self._collect, args=arguments, daemon=True, name="quantum job").start()

    def _collect(self, number: int, job_id: str) -> None:
        try:
            measurement = self.backend.collect(job_id).result(self.limits.timeout)
            self._events.put(_Event(number, 1, measurement=measurement))
        except BaseException as error:
            self._events.put(_Event(number, 1, error=error))

    def _take(self, event: _Event) -> Outcome | None:
        ticket = self._tickets.get(event.ticket)
        if ticket is None or ticket.attempt != event.attempt:
            self._late(event)
            return None
        if event.job is not None:
            ticket.job, ticket.job_id = event.job, event.job.id
            return None
        if event.measurement is None:
            assert event.error is not None
            if event.spent is not None and not ticket.fallback:
                self._charge(event.spent)
            return self._failed(ticket, event.error)
        if ticket.fallback:
            self.counts.fallback += 1
        else:
            self._failures = 0
            self._charge(event.measurement.usage)
            if ticket.recovered:
                self.counts.recovered += 1
            else:
                self.counts.finished += 1
        return self._end(ticket, event.measurement)

    def _late(self, event: _Event) -> None:
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
        limited = self.limits.budget_shots is not None or self.limits.budget_seconds is not None
        if limited:  # a restarted run goes on with what is left
            self._journal.used(self.usage.shots, self.usage.seconds)

    def _end(self, ticket: _Ticket, measurement: Measurement | None) -> Outcome:
        del self._tickets[ticket.number]
        if ticket.job_id:
            self._journal.remove(ticket.job_id)
        name = self._simulator.name if ticket.fallback else self.backend.name
        seconds = time.monotonic() - ticket.begin
        return Outcome(
            ticket.number, ticket.tag, measurement, name, ticket.fallback, ticket.recovered, seconds
        )

    def _failed(self, ticket: _Ticket, error: BaseException) -> Outcome | None:
        """Try again, or on the simulator, or give up: jobs of an earlier process cannot be repeated."""
        if isinstance(error, JobTimeoutError):
            self.counts.timed_out += 1
        else:
            self.counts.failed += 1
        if ticket.recovered or ticket.fallback:
            self.counts.lost += 1
            self._say(f"a quantum job was lost ({one_line(error)})")
            return self._end(ticket, None)
        self._forget(ticket)
        over = self._over_budget(ticket.total_shots)  # what failed may have had its price
        if over is not None:
            self._give_up(over)
        if ticket.attempt <= self.limits.retries and not self._abandoned:
            self.counts.retried += 1
            self._start(ticket, fallback=False)
            return None
        self._failures += 1
        self._abandoned = self._abandoned or self._failures >= MAX_FAILURES
        self._say(
            f"quantum={self.backend.name} failed ({one_line(error)}): its jobs run on the in-process "
            f"simulator when that happens, and all of them after {MAX_FAILURES} in a row"
        )
        self._start(ticket, fallback=True)
        return None

    def _forget(self, ticket: _Ticket) -> None:
        """Give up an attempt."""
        if ticket.job is not None:
            self._cancel(ticket.job)
        if ticket.job_id:
            self._journal.remove(ticket.job_id)

    def _cancel(self, job: Job) -> None:
        """A service that does not answer may not answer this either: nobody waits for it."""
        if not self.backend.remote:
            job.cancel()
            return
        thread = Thread(target=job.cancel, daemon=True, name="quantum job")
        thread.start()
        if self._closed:  # the process may end before it was asked
            thread.join(CANCELLING)


def make_queue(
    backend: Backend, config: QuantumConfig, warn: Callable[[str], None], directory: Path | None = None
) -> JobQueue:
    """The queue that a config asks for; jobs of the in-process simulator run inline."""
    limits = Limits.from_config(config)
    return JobQueue(backend, limits, warn, directory, inline=config.name == "statevector")

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

from qdreamer.quantum.backends.credentials import one_line
from qdreamer.quantum.backends.statevector import Statevector
from qdreamer.quantum.circuits.backend import (
    Backend,
    Job,
    JobTimeoutError,
    Measurement,
    Task,
    Usage,
    check_answer,
    cost,
)
from qdreamer.quantum.jobs.budget import Budget
from qdreamer.quantum.jobs.journal import Entry, Journal
from qdreamer.quantum.jobs.pending_job import Counts, Event, Limits, Outcome, PendingJob
from qdreamer.quantum.jobs.spending import Spending, spending

PAUSE = 0.1  # seconds before the second attempt, doubled before each further one
CANCELLING = 2.0  # seconds for a service to take a cancellation when the queue is closed
MAX_FAILURES = 3  # jobs in a row that fail for good, then the backend is left alone


@dataclass(eq=False)
class JobQueue:
    """Owns submission to one backend.

    `directory` keeps the ids of jobs in flight (only of backends whose jobs outlive the process);
    a new queue on it collects them. `inline` runs jobs within `submit`: for the in-process simulator,
    which answers sooner than a thread starts, and reproducibly. `warn` receives the one warning.
    Queues of one run share its `budget`.
    """

    backend: Backend
    limits: Limits
    warn: Callable[[str], None]
    directory: Path | None = None
    inline: bool = False
    budget: Budget = field(default_factory=Budget)
    counts: Counts = field(default_factory=Counts)
    usage: Usage = field(default_factory=Usage)  # of the backend, not of the fallback

    def __post_init__(self) -> None:
        self._simulator = Statevector()
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._tickets: dict[int, PendingJob] = {}
        self._journal = Journal(self.directory)
        self._number = 0
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
        return len(self._tickets)

    @property
    def in_flight_shots(self) -> int:
        """Shots of the jobs under way, the fallback's left out."""
        return sum(ticket.total_shots for ticket in self._tickets.values() if not ticket.fallback)

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
        ticket = PendingJob(self._next(), tag or {}, tasks, shots, seed, time.monotonic(), total)
        self.counts.submitted += 1
        self._tickets[ticket.number] = ticket
        over = self.budget.used_up()
        if over is not None:
            self._switch_to_fallback(over)
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
        return out | self.budget.left()

    def spending(self) -> Spending:
        """What its jobs have cost, the fallback's left out."""
        return spending(self.usage, self.backend.remote)

    def go_on_from(self, usage: Usage) -> None:
        """The costs of earlier sessions, from a checkpoint; of budgets the journal knows better."""
        self.usage = replace(self.usage, circuits=usage.circuits) if self.budget.limited else usage

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _say(self, text: str) -> None:
        if not self._warned:
            self._warned = True
            self.warn(text)

    def _switch_to_fallback(self, why: str) -> None:
        self._abandoned = True
        self._say(f"{why}: quantum jobs run on the in-process simulator from now on")

    def _start(self, ticket: PendingJob, fallback: bool) -> None:
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

    def _work(self, ticket: PendingJob, attempt: int, backend: Backend, pause: float) -> None:
        """One attempt, in a thread of its own: nothing here may touch the queue's state."""
        spent = None
        try:
            time.sleep(pause)
            job = backend.submit(ticket.tasks, ticket.shots, ticket.seed)
            if job.id:
                entry = Entry(job.id, backend.name, ticket.total_shots, time.time(), ticket.tag)
                self._journal.add(entry)
            self._events.put(Event(ticket.number, attempt, job=job))
            measurement = job.result(None if backend is self._simulator else self.limits.timeout)
            spent = measurement.usage
            check_answer(ticket.tasks, ticket.shots, measurement)
            simulated = backend is self._simulator
            self._events.put(Event(ticket.number, attempt, measurement=measurement, fallback=simulated))
        except BaseException as error:
            self._events.put(Event(ticket.number, attempt, error=error, spent=spent))

    def _recover(self) -> None:
        """Ask for the jobs that an earlier process left behind."""
        for entry in list(self._journal.entries.values()):
            ticket = PendingJob(
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
            self._events.put(Event(number, 1, measurement=measurement))
        except BaseException as error:
            self._events.put(Event(number, 1, error=error))

    def _take(self, event: Event) -> Outcome | None:
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

    def _end(self, ticket: PendingJob, measurement: Measurement | None) -> Outcome:
        del self._tickets[ticket.number]
        if ticket.job_id:
            self._journal.remove(ticket.job_id)
        name = self._simulator.name if ticket.fallback else self.backend.name
        seconds = time.monotonic() - ticket.begin
        return Outcome(
            ticket.number, ticket.tag, measurement, name, ticket.fallback, ticket.recovered, seconds
        )

    def _failed(self, ticket: PendingJob, error: BaseException) -> Outcome | None:
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
        over = self.budget.used_up()  # what failed may have had its price
        if over is not None:
            self._switch_to_fallback(over)
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

    def _forget(self, ticket: PendingJob) -> None:
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

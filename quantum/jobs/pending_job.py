"""A job of the queue, and what is told about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qdreamer.quantum.circuits.backend import Job, Measurement, Task, Usage
from qdreamer.quantum.config import QuantumConfig


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
class PendingJob:
    """A job under way."""

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
class Event:
    """What a thread reports about one attempt: its job, or its end."""

    ticket: int
    attempt: int
    job: Job | None = None
    measurement: Measurement | None = None
    error: BaseException | None = None
    spent: Usage | None = None  # of an answer that nobody can use
    fallback: bool = False  # of the simulator's, which costs nothing

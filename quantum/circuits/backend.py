"""The seam between whoever needs samples and whatever runs circuits.

A task knows its circuit and the angles of each of its R rows; a backend runs any number of tasks in
one job and answers with measured bits. What the bits mean is the task's business.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Thread
from typing import Any, Protocol

from torch import Tensor

from qdreamer.configs.registry import Registry
from qdreamer.quantum.circuits.circuit import Circuit


class BackendError(RuntimeError):
    """A job that failed; one line. Trying again may help."""


class JobTimeoutError(BackendError):
    """A job that took too long."""


class JobLostError(BackendError):
    """A job that nobody can collect any more. Trying again does not help."""


class CredentialsError(RuntimeError):
    """No usable account; one line that names what to set. Never holds a token."""


@dataclass(frozen=True)
class Usage:
    """What jobs cost. Seconds are of execution; queue seconds those spent waiting for it."""

    circuits: int = 0  # rows of angles: circuits with all their angles bound
    shots: int = 0  # over all circuits
    seconds: float = 0.0
    queue_seconds: float = 0.0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.circuits + other.circuits,
            self.shots + other.shots,
            self.seconds + other.seconds,
            self.queue_seconds + other.queue_seconds,
        )


@dataclass(frozen=True, eq=False)
class Measurement:
    """Bits (R, S, n), uint8, of each task in a job; S shots of R rows.

    `confusion[t]` (n, 2, 2) holds P(read i | prepared j) of each qubit, or None if it is not known or
    not to be corrected (`quantum.qaoa.readout` corrects estimates with it).
    """

    bits: tuple[Tensor, ...]
    usage: Usage
    confusion: tuple[Tensor | None, ...] = field(default=())


class Task(Protocol):
    """Rows of one circuit: see `quantum.qaoa.tasks`."""

    @property
    def rows(self) -> int:
        """R, the number of circuits."""
        ...

    def circuit(self) -> Circuit:
        """The circuit, the same object for every task of this shape."""
        ...

    def values(self) -> Tensor:
        """Angles (R, P), float64."""
        ...

    def probabilities(self) -> Tensor | None:
        """Exact P(x) (R, 2^n), float, where a faster way than the circuit is known."""
        ...


class Job(Protocol):
    """Submitted work."""

    @property
    def id(self) -> str: ...

    def result(self, timeout: float | None = None) -> Measurement:
        """Wait, at most `timeout` seconds where the backend can, and decode. Raises BackendError."""
        ...

    def cancel(self) -> None:
        """Give the job up; never raises."""
        ...


class Backend(Protocol):
    """Whatever runs circuits: in this process, a simulator, a device."""

    @property
    def name(self) -> str: ...

    @property
    def in_process(self) -> bool:
        """Whether this process knows the outcomes of circuits, so that an answer costs no wait."""
        ...

    @property
    def remote(self) -> bool:
        """Whether jobs outlive this process and can be collected by id."""
        ...

    def submit(self, tasks: Sequence[Task], shots: int, seed: int) -> Job:
        """Start a job with `shots` shots of every row. The same seed gives the same bits where the
        backend is a simulator. Raises BackendError."""
        ...

    def collect(self, job_id: str) -> Job:
        """An earlier process's job. Raises JobLostError."""
        ...


BACKENDS: Registry[Callable[[Any], Backend]] = Registry(
    "backends", "qdreamer.quantum.backends", "statevector"
)
"""Classes that are made from their config."""


@dataclass(frozen=True, eq=False)
class FinishedJob:
    """A job of a backend that answers at once."""

    id: str
    measurement: Measurement

    def result(self, timeout: float | None = None) -> Measurement:
        return self.measurement

    def cancel(self) -> None:
        pass


def run(backend: Backend, tasks: Sequence[Task], shots: int, seed: int) -> Measurement:
    """Submit and wait."""
    return backend.submit(tasks, shots, seed).result()


def check_answer(tasks: Sequence[Task], shots: int, measurement: Measurement) -> None:
    """Raises BackendError unless the measurement holds bits (R, S, n) of every task, each 0 or 1."""
    wanted = [(task.rows, shots, task.circuit().qubits) for task in tasks]
    shapes = [tuple(bits.shape) for bits in measurement.bits]
    if shapes != wanted:
        raise BackendError(f"an answer of shape {_shown(shapes)} instead of {_shown(wanted)}")
    if any(bool((bits > 1).any()) for bits in measurement.bits):
        raise BackendError("an answer that is no bits")


def _shown(shapes: Sequence[tuple[int, ...]]) -> str:
    return ", ".join(map(str, shapes[:3])) + (", …" if len(shapes) > 3 else "") if shapes else "nothing"


def warm_up(backend: Backend, task: Task, seconds: float) -> None:
    """Run one shot before there is a hurry: Qiskit's transpiler holds Python's lock for seconds, and in
    a job's thread it would stop whoever goes on meanwhile. Not for services, where a job has its price.

    What goes wrong, or takes longer, is left to the jobs, whose queue knows what to do.
    """
    if backend.remote:
        return

    def work() -> None:
        with suppress(Exception):
            run(backend, [task], 1, 0)

    thread = Thread(target=work, daemon=True, name="quantum warm-up")
    thread.start()
    thread.join(seconds)


def cost(tasks: Sequence[Task], shots: int) -> Usage:
    """Circuits and shots of a job, before it runs."""
    circuits = sum(task.rows for task in tasks)
    return Usage(circuits, circuits * shots)


def check_request(tasks: Sequence[Task], shots: int) -> None:
    """Raises ValueError for a job without tasks or shots."""
    if not tasks or shots < 1:
        raise ValueError(f"a job needs at least one task and one shot, not {len(tasks)} and {shots}")

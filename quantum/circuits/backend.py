"""What needs samples and what runs circuits, as they see each other.

A task knows its circuit and the angles of each of its R rows; a backend runs any number of tasks in
one job and answers with measured bits. What the bits mean is the task's business.
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Protocol

from torch import Tensor

from qdreamer.configs.registry import Registry
from qdreamer.quantum.circuits.circuit import Circuit
from qdreamer.quantum.circuits.fidelity import CircuitEstimate


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
        return Usage(*map(operator.add, astuple(self), astuple(other)))


@dataclass(frozen=True, eq=False)
class Measurement:
    """Bits (R, S, n), uint8, of each task in a job; S shots of R rows.

    `confusion[t]` (n, 2, 2) holds P(read i | prepared j) of each qubit, or None if it is not known or
    not to be corrected (`quantum.circuits.readout` corrects estimates with it).
    """

    bits: tuple[Tensor, ...]
    usage: Usage
    confusion: tuple[Tensor | None, ...] = ()


class Task(Protocol):
    """Rows of one circuit: amplitudes to load, a problem to sample, overlaps to measure."""

    @property
    def rows(self) -> int:
        """R, the number of circuits."""

    def circuit(self) -> Circuit:
        """Return the circuit, the same object for every task of this shape."""

    def values(self) -> Tensor:
        """Return angles (R, P), float64."""


class Job(Protocol):
    """Submitted work."""

    @property
    def id(self) -> str: ...

    def result(self, timeout: float | None = None) -> Measurement:
        """Wait, at most `timeout` seconds where the backend can, and decode. Raises BackendError."""

    def cancel(self) -> None:
        """Give the job up; never raises."""


class Backend(Protocol):
    """Whatever runs circuits: in this process, a simulator, a device.

    One that runs them on a device also has `estimate`: see `device_estimate`.
    """

    name: str
    in_process: bool  # this process works out the answer itself, so that there is nothing to wait for
    remote: bool  # jobs outlive this process and can be collected by id

    def submit(self, tasks: Sequence[Task], shots: int, seed: int) -> Job:
        """Start a job with `shots` shots of every row. The same seed gives the same bits where the
        backend is a simulator. Raises BackendError."""

    def collect(self, job_id: str) -> Job:
        """Return an earlier process's job. Raises JobLostError."""


BACKENDS: Registry[Callable[[Any], Backend]] = Registry(
    "backends", "qdreamer.quantum.backends", "statevector"
)
"""Classes that are made from their config."""


def run(backend: Backend, tasks: Sequence[Task], shots: int, seed: int) -> Measurement:
    """Submit and wait."""
    return backend.submit(tasks, shots, seed).result()


def device_estimate(backend: Backend, circuit: Circuit) -> CircuitEstimate | None:
    """Return what the circuit costs on the backend's device, after transpilation; None without a device."""
    estimate = getattr(backend, "estimate", None)
    return None if estimate is None else estimate(circuit)


def cost(tasks: Sequence[Task], shots: int) -> Usage:
    """Return circuits and shots of a job, before it runs."""
    circuits = sum(task.rows for task in tasks)
    return Usage(circuits, circuits * shots)


def check_request(tasks: Sequence[Task], shots: int) -> None:
    """Raises ValueError for a job without tasks or shots."""
    if not tasks or shots < 1:
        raise ValueError(f"a job needs at least one task and one shot, not {len(tasks)} and {shots}")

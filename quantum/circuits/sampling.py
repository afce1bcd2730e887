"""Sampling in this process: drawing basis states, their bits, and jobs that end when they are submitted.

Bit i of an index belongs to qubit i.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor

from qdreamer.quantum.circuits.backend import Job, JobLostError, Measurement, Task, Usage, check_request, cost


def draw(probabilities: Tensor, shots: int, source: torch.Generator) -> Tensor:
    """Draw indices (R, S), int64, from weights (R, N) that need not be normalised.

    By inverting the distribution function: S·log N per row after one cumulative sum; weights of 0
    are never drawn. Raises ValueError where a row has no weight.
    """
    cumulative = probabilities.cumsum(-1, dtype=torch.float64)  # float32 would lose small weights
    total = cumulative[:, -1:]
    if not (torch.isfinite(total) & (total > 0)).all():
        raise ValueError("probabilities must be finite and not all 0")
    uniform = torch.rand(len(total), shots, dtype=torch.float64, generator=source) * total
    # A product may round up to the total, behind which there is nothing.
    uniform = torch.minimum(uniform, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, uniform, right=True)


def index_to_bits(index: Tensor, n: int) -> Tensor:
    """Convert indices (…,) → bits (…, n), uint8."""
    return (index[..., None] >> torch.arange(n) & 1).to(torch.uint8)


def bits_to_index(bits: Tensor) -> Tensor:
    """Convert bits (…, n) → indices (…,), int64."""
    return (bits.to(torch.int64) << torch.arange(bits.shape[-1])).sum(-1)


def new_seed(generator: torch.Generator) -> int:
    """Draw a seed for one job."""
    return int(torch.randint(0, 2**31 - 1000, (), generator=generator))


@dataclass(frozen=True, eq=False)
class FinishedJob:
    """A job of a backend that answers at once."""

    measurement: Measurement
    id: str = ""

    def result(self, timeout: float | None = None) -> Measurement:
        return self.measurement

    def cancel(self) -> None:
        pass


class ImmediateBackend(ABC):
    """A backend whose answer is there when `submit` returns."""

    name: str
    in_process = False
    remote = False

    @abstractmethod
    def measure(self, tasks: Sequence[Task], shots: int, seed: int) -> tuple[Tensor, ...]:
        """Return the bits (R, S, n) of every task. Raises BackendError."""

    def submit(self, tasks: Sequence[Task], shots: int, seed: int) -> Job:
        check_request(tasks, shots)
        begin = perf_counter()
        bits = self.measure(tasks, shots, seed)
        usage = cost(tasks, shots) + Usage(seconds=perf_counter() - begin)
        return FinishedJob(Measurement(bits, usage, (None,) * len(bits)))

    def collect(self, job_id: str) -> Job:
        raise JobLostError(f"jobs of quantum={self.name} end with their process")

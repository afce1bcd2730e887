"""The processes that train one run, as a learner sees them: here a run of one process.

Under torchrun a run has W processes, numbered by their rank (`distributed.process_group`). Rank r's rows are
rows r·B/W … (r + 1)·B/W − 1 of the joint batch of B sequences, and environments and imagined futures are
shared out alike. What the ranks compute is what one process computes from the joint batch, up to the rounding
of sums: random numbers are drawn for the joint batch by generators in the same state, statistics are taken
over all ranks' values, and the mean of the ranks' gradients is taken before clipping.
"""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")


class RanksError(RuntimeError):
    """The ranks cannot go on together; one line."""


class SingleProcess:
    """A run of one process: everything is already here. `ProcessGroup` overrides what several must exchange.

    All ranks call such methods in the same order. They raise RanksError when another rank has ended.
    """

    rank, size = 0, 1  # size is W

    def device(self, name: str) -> str:
        """Return this rank's own device for the setting `device`."""
        return name

    def own(self, joint: Any) -> Any:
        """Return this rank's rows of a tensor or array that holds those of all ranks, (W·R, …) → (R, …)."""
        rows = len(joint) // self.size
        return joint[self.rank * rows : (self.rank + 1) * rows]

    def draw(
        self,
        noise: Callable[..., Tensor],
        *shape: int,
        generator: torch.Generator | None = None,
        dim: int = 0,
    ) -> Tensor:
        """Return this rank's part of noise(*shape), drawn for all ranks side by side along `dim`."""
        joint = [n * self.size if i == dim else n for i, n in enumerate(shape)]
        return noise(*joint, generator=generator).narrow(dim, self.rank * shape[dim], shape[dim])

    def gather(self, rows: Tensor) -> Tensor:
        """Return the rows of all ranks without gradients, (R, …) → (W·R, …)."""
        return rows

    def gather_lists(self, items: list[T]) -> list[T]:
        """Return the items of all ranks' lists; they are pickled."""
        return items

    def average(self, module: nn.Module, scalars: dict[str, Tensor]) -> dict[str, Tensor]:
        """Replace the module's gradients and the scalars by their means over ranks; return the scalars."""
        return scalars

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over ranks of a small tensor on the CPU."""
        return values

    def maximum(self, number: int) -> int:
        """Return the largest of all ranks' numbers."""
        return number

    def from_rank_0(self, compute: Callable[[], T]) -> T:
        """Return what `compute` returns on rank 0, which alone calls it; the value is pickled."""
        (value,) = self.gather_lists([compute()] if self.rank == 0 else [])
        return value

    def broadcast(self, module: nn.Module) -> None:
        """Set the module's parameters and buffers to rank 0's."""

    def check_equal(self, module: nn.Module, step: int) -> None:
        """Raise RanksError on all ranks when weights differ by a bit between them, or steps do."""

    def collective_errors(self) -> AbstractContextManager[None]:
        """End all ranks when one raises in this context, with one line of rank 0; it exchanges nothing."""
        return nullcontext()

    def exit(self, code: str | int | None) -> NoReturn:
        """End this process, as sys.exit does."""
        sys.exit(code)


SINGLE_PROCESS = SingleProcess()

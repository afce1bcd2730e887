"""Metrics: running means without waiting for the device, and the log that passes values on to writers."""

import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from qdreamer.agents.reporting.writers.writer import WRITERS, Writer
from qdreamer.configs.console import one_line

T = TypeVar("T")


class RunningMeans:
    """Means of scalar tensors, read out (and the device waited for) only when a line is written."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._sum: Tensor | None = None
        self._count = 0

    def add(self, metrics: dict[str, Tensor]) -> None:
        """Add one update's scalars. Raises ValueError for other names than since the last `read`."""
        if self._sum is None:
            self._names = list(metrics)
        elif metrics.keys() != set(self._names):
            odd = ", ".join(sorted(metrics.keys() ^ set(self._names)))
            raise ValueError(f"updates log different metrics: {odd}")
        values = torch.stack([metrics[name].detach() for name in self._names])
        self._sum = values.double() if self._sum is None else self._sum.to(values.device) + values
        self._count += 1

    def read(self) -> dict[str, float]:
        """Return the means since the last `read`; empty when nothing was added."""
        if self._sum is None:
            return {}
        means = dict(zip(self._names, (self._sum / self._count).tolist(), strict=True))
        self._sum, self._count = None, 0
        return means

    def state_dict(self) -> dict[str, Any]:
        total = None if self._sum is None else self._sum.clone()
        return {"names": self._names, "sum": total, "count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._names, self._sum, self._count = state["names"], state["sum"], state["count"]


def shows_pictures(writers: Sequence[str]) -> bool:
    """Tell whether any of these outputs takes pictures and videos."""
    return any(WRITERS[name].part.pictures for name in writers)


class MetricsLog:
    """Passes everything that a run logs on to its writers.

    Everything is reproducible from seed and machine except the names under `time/`.

    Args:
        writers: names of the run's outputs.
        resume_at: (`positions`, step) of the checkpoint that the run goes on from; what was written after
            it is cut off and written again.
    """

    def __init__(
        self, directory: Path, writers: Sequence[str], resume_at: tuple[dict[str, int], int] | None = None
    ) -> None:
        positions, step = ({}, None) if resume_at is None else resume_at
        self._writers = {
            name: WRITERS[name].part(directory, step, positions.get(name, 0)) for name in writers
        }
        self.pictures = shows_pictures(writers)

    def begin(self, settings: dict[str, Any]) -> None:
        """Log the settings of a run that begins."""
        self._each(lambda writer: writer.begin(settings))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Log values. Raises FloatingPointError, once they are written, when one is not finite."""
        self._each(lambda writer: writer.scalars(step, values))
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            raise FloatingPointError(f"{', '.join(bad)} is not finite at step {step}")

    def histogram(self, step: int, name: str, values: NDArray[Any]) -> None:
        """Log the distribution of values (n,); none are left out."""
        if len(values):
            self._each(lambda writer: writer.histogram(step, name, values))

    def image(self, step: int, name: str, image: NDArray[Any]) -> None:
        """Log an RGB picture (H, W, 3) of bytes."""
        self._each(lambda writer: writer.image(step, name, image))

    def video(self, step: int, name: str, gif: bytes, size: tuple[int, int]) -> None:
        """Log an encoded GIF of `size` (width, height)."""
        self._each(lambda writer: writer.video(step, name, gif, size))

    def _each(self, call: Callable[[Writer], T]) -> dict[str, T]:
        """Let each writer do something. One that fails, and that the run can do without, is left out."""
        results = {}
        for name, writer in list(self._writers.items()):
            try:
                results[name] = call(writer)
            except Exception as error:
                if writer.essential:
                    raise
                del self._writers[name]
                print(
                    f"warning: {name} is left out from here on: {one_line(error) or type(error).__name__}",
                    file=sys.stderr,
                )
        return results

    def positions(self) -> dict[str, int]:
        """Return how much each writer has written, safely on disk."""
        return self._each(lambda writer: writer.position())

    def close(self) -> None:
        self._each(lambda writer: writer.close())

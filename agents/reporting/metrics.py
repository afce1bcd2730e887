"""Metrics: running means without waiting for the device, metrics.jsonl, TensorBoard."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard.summary import hparams
from torch.utils.tensorboard.writer import SummaryWriter

from qdreamer.agents.reporting.monitor import Layout


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


class MetricsLog:
    """Writes scalars to metrics.jsonl (the source of truth) and to TensorBoard.

    Everything is reproducible from seed and machine except the names under `time/`.

    Args:
        resume_at: (byte offset, step) of the checkpoint that the run goes on from; what was
            written after it is cut off and written again.
    """

    def __init__(self, directory: Path, tensorboard: bool, resume_at: tuple[int, int] | None = None) -> None:
        path = directory / "metrics.jsonl"
        offset, step = resume_at or (0, 0)
        self._file = path.open("r+b" if path.exists() else "w+b")
        self._file.truncate(offset)
        self._file.seek(offset)
        self.board = (
            SummaryWriter(str(directory), purge_step=step + 1 if resume_at else 0) if tensorboard else None
        )

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """One line; raises FloatingPointError when a value is not finite."""
        bad = [name for name, value in values.items() if not np.isfinite(value)]
        line = {"step": step, **{k: v if np.isfinite(v) else None for k, v in values.items()}}
        self._file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
        self._file.flush()
        if bad:
            raise FloatingPointError(f"{', '.join(bad)} is not finite at step {step}")
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """An RGB picture (H, W, 3), bytes."""
        if self.board is not None:
            self.board.add_image(name, image, step, dataformats="HWC")

    def histogram(self, step: int, name: str, values: np.ndarray) -> None:
        """Values (n,), for TensorBoard only."""
        if self.board is not None:
            self.board.add_histogram(name, values, step)

    def hparams(self, settings: dict[str, bool | float | str], metrics: list[str]) -> None:
        """Fill TensorBoard's HPARAMS tab, in this run's own events (add_hparams makes a stray sub-run)."""
        if self.board is not None:
            for summary in hparams(settings, dict.fromkeys(metrics, 0.0)):
                self.board._get_file_writer().add_summary(summary)

    def layout(self, charts: Layout) -> None:
        """Sections and charts of the CUSTOM SCALARS tab."""
        if self.board is not None:
            self.board.add_custom_scalars(charts)

    def text(self, name: str, text: str) -> None:
        """Markdown for the TEXT tab."""
        if self.board is not None:
            self.board.add_text(name, text)

    def offset(self) -> int:
        """Bytes written so far, safely on disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
        if self.board is not None:
            self.board.close()

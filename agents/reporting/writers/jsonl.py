"""metrics.jsonl: one line for every step at which something was logged. It is the source of truth."""

import json
import math
import os
from pathlib import Path

from qdreamer.agents.reporting.writers.writer import WRITERS, Writer


@WRITERS.register("jsonl")
class JsonLines(Writer):
    """Scalars as JSON; null stands for a value that is not finite."""

    def __init__(self, directory: Path, resume_at: int | None, position: int) -> None:
        path = directory / "metrics.jsonl"
        self._file = path.open("r+b" if path.exists() else "w+b")
        self._file.truncate(position)
        self._file.seek(position)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        line = {"step": step, **{k: v if math.isfinite(v) else None for k, v in values.items()}}
        self._file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
        self._file.flush()

    def position(self) -> int:
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        self._file.close()

"""metrics.jsonl: one line for every step at which something was logged. It is the source of truth."""

import json
import math
import os
from pathlib import Path

from qdreamer.agents.reporting.writers.writer import WRITERS, Writer
from qdreamer.configs.schema import ConfigError

FILE = "metrics.jsonl"


@WRITERS.register("jsonl")
class JsonLines(Writer):
    """Scalars as JSON; null stands for a value that is not finite.

    A line is written by one call of the system, or taken back: no reader meets half of one. Raises
    ConfigError when the file does not hold what the checkpoint says was written; OSError where the disk
    takes no line, or the file was removed, which the system would not say.
    """

    essential = True

    def __init__(self, directory: Path, resume_at: int | None, position: int) -> None:
        path = directory / FILE
        if (sound := sound_length(path, position)) < position:
            raise ConfigError(
                f"{path} is sound up to byte {sound}, but the run's checkpoint goes on behind byte "
                f"{position}: put the file back, or add --repair to go on without the lines that are lost"
            )
        self._file = path.open("r+b" if path.exists() else "w+b", buffering=0)
        self._file.truncate(position)
        self._file.seek(position)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        line = {"step": step, **{k: v if math.isfinite(v) else None for k, v in values.items()}}
        if not os.fstat(self._file.fileno()).st_nlink:
            raise FileNotFoundError(f"{self._file.name} was removed")
        begin, text = self._file.tell(), json.dumps(line, allow_nan=False).encode() + b"\n"
        try:
            if self._file.write(text) != len(text):
                raise OSError(f"no space for another line of {self._file.name}")
        except OSError:
            self._file.truncate(begin)
            self._file.seek(begin)
            raise

    def position(self) -> int:
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        self._file.close()


def sound_length(path: Path, limit: int) -> int:
    """Return how many of the file's first `limit` bytes are whole lines."""
    if not path.exists():
        return 0
    with path.open("rb") as file:
        file.seek(limit - 1 if limit else 0)
        if not limit or file.read(1) == b"\n":
            return limit
        file.seek(0)
        return file.read(limit).rfind(b"\n") + 1

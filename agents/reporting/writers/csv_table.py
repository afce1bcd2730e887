"""metrics.csv: a row for every value, for spreadsheets and data frames."""

import csv
import os
from pathlib import Path

from qdreamer.agents.reporting.writers.jsonl import sound_length
from qdreamer.agents.reporting.writers.writer import WRITERS, Writer

FILE = "metrics.csv"
HEADER = ("step", "name", "value")


@WRITERS.register("csv")
class CsvTable(Writer):
    """Scalars as rows step, name, value: `pandas.read_csv(…).pivot(index="step", columns="name")`.

    What was written after the checkpoint that a run goes on from is cut off, as in metrics.jsonl.
    """

    def __init__(self, directory: Path, resume_at: int | None, position: int) -> None:
        path = directory / FILE
        position = sound_length(path, min(position, path.stat().st_size if path.exists() else 0))
        self._file = path.open("r+" if path.exists() else "w+", newline="", encoding="utf-8")
        self._file.truncate(position)
        self._file.seek(position)
        self._rows = csv.writer(self._file, lineterminator="\n")
        if position == 0:
            self._rows.writerow(HEADER)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._rows.writerows((step, name, value) for name, value in values.items())

    def position(self) -> int:
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        self._file.close()

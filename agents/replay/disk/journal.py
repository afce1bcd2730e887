"""What may change after a row is stored, in files of what has changed since the file before.

A checkpoint names a chain of files: the first holds all rows of that moment, each other what changed since
the one before it. When the others together are as large as the first, the chain begins anew: over a run,
about twice what has changed is written, however large the buffer is.
"""

import math
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qdreamer.configs.sealed_file import Sum, make_synced, sync

BLOCK = 65_536  # rows that are written, and read, at a time


class Journal:
    """Files of rings (N, size, …) in memory.

    Args:
        folder: of these files. name: by which a checkpoint calls it, relative to its own directory.
        columns: the rings, by field.

    Raises OSError, here and in all methods, when the disk is full or does not work.
    """

    def __init__(self, folder: Path, name: str, columns: dict[str, NDArray[Any]]) -> None:
        self._folder, self._name = folder, name
        rings = [columns[field] for field in sorted(columns)]
        self._rings = [
            ring.reshape(math.prod(ring.shape[:2]), *ring.shape[2:]) for ring in rings
        ]  # (N·size, …)
        self.changed = np.zeros(rings[0].shape[:2], np.bool_)
        """(N, size): rows that have changed since the last file."""
        self._row_bytes = 8 + sum(ring.itemsize * math.prod(ring.shape[1:]) for ring in self._rings)
        self._chain: dict[int, Sum] = {}  # by number
        self._kept: list[set[int]] = [set(), set()]  # what the last two checkpoints need
        make_synced(folder)

    def files(self, filled: NDArray[np.bool_]) -> dict[str, Sum]:
        """Write what has changed; return what a checkpoint needs, which is on the disk.

        Args:
            filled: (N, size), rows that hold something.
        """
        rows = np.flatnonzero(self.changed)
        if len(rows) or not self._chain:
            number = max(self._chain, default=-1) + 1
            first, *others = [size for size, _ in self._chain.values()] or [0]
            if sum(others) + len(rows) * self._row_bytes >= first:
                rows, self._chain = np.flatnonzero(filled), {}
            self._chain[number] = self._write(self._path(number), rows)
            self.changed[:] = False
        return {f"{self._name}/{self._path(number).name}": known for number, known in self._chain.items()}

    def _write(self, path: Path, rows: NDArray[np.int64]) -> Sum:
        """Write the rows (n,) of all rings."""
        size = found = 0
        with path.open("wb") as file:
            for begin in range(0, len(rows), BLOCK):
                index = rows[begin : begin + BLOCK]
                for values in (index, *(ring[index] for ring in self._rings)):
                    data = np.ascontiguousarray(values).view(np.uint8).data if values.size else b""
                    size, found = size + file.write(data), zlib.crc32(data, found)
        sync(path)
        sync(self._folder)
        return size, found

    def load(self, files: dict[str, Sum]) -> None:
        """Set the rings to what a checkpoint's files, which have been verified, say."""
        numbers = {self._number(name): name for name in files if name.startswith(f"{self._name}/")}
        self._chain = {number: files[numbers[number]] for number in sorted(numbers)}
        for number in self._chain:
            left = self._chain[number][0] // self._row_bytes
            with self._path(number).open("rb") as file:
                while left:
                    count = min(left, BLOCK)
                    index = np.fromfile(file, np.int64, count)
                    for ring in self._rings:
                        values = np.fromfile(file, ring.dtype, count * math.prod(ring.shape[1:]))
                        ring[index] = values.reshape(count, *ring.shape[1:])
                    left -= count
        self._kept = [set(self._chain), set(self._chain)]
        self.changed[:] = False

    def saved(self) -> None:
        """A checkpoint names the chain: delete what neither it nor the one before needs."""
        self._kept = [self._kept[1], set(self._chain)]
        for path in self._folder.iterdir():
            if self._number(path.name) not in self._kept[0] | self._kept[1]:
                path.unlink()

    def _path(self, number: int) -> Path:
        return self._folder / f"{number}.bin"

    def _number(self, name: str) -> int:
        found = re.search(r"(\d+)\.bin$", name)
        return int(found[1]) if found else -1

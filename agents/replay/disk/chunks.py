"""Rows of one entry in append-only files, of which a checkpoint keeps no more than their names and sums.

Every environment has a queue of chunks, each a file of a fixed number of rows. A row is written once, behind
the last; when a chunk is full the next begins, and one that no row is replayed from any more is freed as soon
as neither of the two checkpoints that are kept needs it. So a kill at any instant leaves the rows of both
checkpoints as they were: what was written since lies behind them, and is written again.
"""

import contextlib
import math
import re
import zlib
from collections.abc import Iterable
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qdreamer.agents.replay.disk.window import ALIGNED, Window
from qdreamer.configs.sealed_file import Sum, make_synced, sync

BYTES = 2**26  # of a chunk, at most
PARTS = 8  # chunks that a ring has at least: what is stored beyond it stays small


class ChunkedRows:
    """The last `size` rows of each environment, and those before that a checkpoint still needs.

    Args:
        folder: of these files. name: by which a checkpoint calls it, relative to its own directory.
        shape, dtype: of a row.

    Raises OSError, here and in all methods, when the disk is full or does not work.
    """

    def __init__(
        self, folder: Path, name: str, num_envs: int, size: int, shape: tuple[int, ...], dtype: Any
    ) -> None:
        self._folder, self._name, self._size, self.num_envs = folder, name, size, num_envs
        self._dtype = np.dtype(dtype)
        self.row_bytes = math.prod(shape) * self._dtype.itemsize
        self.rows = rows_of_chunk(size, self.row_bytes)
        self._places = -(-size // self.rows) + 1  # all that rows can be replayed from, and the open chunk
        self._window = Window(num_envs * self._places, self.rows * self.row_bytes)
        self.slots = self._places * self.rows
        self.array = self._window.array(dtype, (num_envs, self.slots, *shape))
        """(N, slots, …): row t of an environment in slot t % slots, while it is one of the last `size`."""
        self._sums: dict[tuple[int, int], int] = {}  # CRC-32 of what was written, by (environment, chunk)
        self._open: dict[int, FileIO] = {}  # by environment
        self._unsynced: set[Path] = set()
        make_synced(folder)

    def append(self, env: NDArray[np.int64], row: NDArray[np.int64], values: NDArray[Any]) -> None:
        """Store the next row of each of the environments `env` (n,): values (n, …)."""
        values = np.ascontiguousarray(values, self._dtype)
        for e, r, value in zip(env.tolist(), row.tolist(), values, strict=True):
            self.extend(e, r, value)

    def take(self, env: NDArray[np.int64], row: NDArray[np.int64]) -> NDArray[Any]:
        """Return consecutive rows (B, L) of the environments (B, 1), which are among the last `size`.

        Each sequence is asked for as a whole: read page by page, the disk takes five times as long.
        """
        slots = row % self.slots
        begins = (env[:, 0] * self.slots + slots[:, 0]) * self.row_bytes
        self._window.expect(begins, row.shape[1] * self.row_bytes)
        return self.array[env, slots]

    def extend(self, env: int, row: int, values: NDArray[Any]) -> None:
        """Store an environment's next rows from `row` on, (n, …) or one (…), all of one chunk.

        A queue may begin at any chunk's first row.
        """
        chunk = row // self.rows
        if row % self.rows == 0:
            self._begin(env, chunk)
        file, data = self._open[env], values.tobytes()
        left = memoryview(data)
        while left:  # a disk that is nearly full takes a part
            left = left[file.write(left) :]
        self._sums[env, chunk] = zlib.crc32(data, self._sums[env, chunk])
        self._unsynced.add(self._path(env, chunk))

    def _begin(self, env: int, chunk: int) -> None:
        """Make an empty chunk the environment's open one."""
        self.close(env)
        file = self._path(env, chunk).open("w+b", buffering=0)
        self._open[env], self._sums[env, chunk] = file, 0
        self._show(env, chunk, self._open[env])

    def _show(self, env: int, chunk: int, file: FileIO) -> None:
        file.truncate(self.rows * self.row_bytes)  # what lies behind the last row is no part of the disk yet
        self._window.show(env * self._places + chunk % self._places, file.fileno())

    def files(self, added: NDArray[np.int64]) -> dict[str, Sum]:
        """Return what a checkpoint needs of each file, (bytes, sum) by name; all of it is on the disk.

        Args:
            added: rows ever stored, (N,).
        """
        for path in self._unsynced:
            sync(path)
        if self._unsynced:
            sync(self._folder)
        self._unsynced.clear()
        return {
            f"{self._name}/{self._path(e, chunk).name}": (self._length(int(n), chunk), self._sums[e, chunk])
            for e, n in enumerate(added)
            for chunk in self._chunks(int(n))
        }

    def load(self, added: NDArray[np.int64], files: dict[str, Sum]) -> None:
        """Go on from a checkpoint's rows, whose files have been verified."""
        self.close()
        self._sums.clear()
        for e, n in enumerate(added.tolist()):
            for chunk in self._chunks(n):
                path = self._path(e, chunk)
                length, self._sums[e, chunk] = files[f"{self._name}/{path.name}"]
                file = path.open("r+b", buffering=0)
                self._show(e, chunk, file)
                if length < self.rows * self.row_bytes:
                    file.seek(length)
                    self._open[e] = file
                else:
                    file.close()

    def free(self, first: Iterable[int]) -> None:
        """Delete the chunks that hold only rows before `first`, (N,)."""
        needed = {e: row // self.rows for e, row in enumerate(first)}
        for path in self._folder.iterdir():
            found = re.fullmatch(r"(\d+)_(\d+)\.bin", path.name)
            if found and int(found[2]) < needed.get(int(found[1]), 0):
                path.unlink()
                self._sums.pop((int(found[1]), int(found[2])), None)

    def close(self, env: int | None = None) -> None:
        """Close the open chunk of one environment, or all."""
        for e in list(self._open) if env is None else [env]:
            with contextlib.suppress(KeyError):
                self._open.pop(e).close()

    def _chunks(self, added: int) -> range:
        """Return the chunks that hold the last `size` rows."""
        return range(max(added - self._size, 0) // self.rows, -(-added // self.rows))

    def _length(self, added: int, chunk: int) -> int:
        return min(added - chunk * self.rows, self.rows) * self.row_bytes

    def _path(self, env: int, chunk: int) -> Path:
        return self._folder / f"{env}_{chunk}.bin"


def rows_of_chunk(size: int, row_bytes: int) -> int:
    """Return how many rows of a ring of `size` rows make a chunk: a multiple of ALIGNED bytes."""
    least = ALIGNED // math.gcd(ALIGNED, row_bytes)
    return max(min(BYTES // row_bytes, size // PARTS) // least, 1) * least

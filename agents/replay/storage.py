"""A preallocated ring of rows, one column per environment, with vectorised gathers.

Row t of an environment holds o_t, the reward that came with it, whether it is an episode's first,
last or terminal row, the action a_t taken after it (zeros after an episode's last row) and the
agent's state at t, from which a later sequence can go on. An episode of L steps fills L + 1 rows.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from qdreamer.agents.replay.sampler import Eligible, Sampler, Starts

Rows = dict[str, NDArray[Any]]

PAST = ("state", "stoch")
"""Fields that are wanted of the rows before a sequence, and of no others."""

COLUMNS = 16
"""Rows before a sequence come in multiples of so many."""


class Sample(NamedTuple):
    """B sequences of T rows, each preceded by the row before its start."""

    rows: Rows  # (B, T + 1, …): row −1, then rows 0 … T − 1
    past: Rows  # (B, c, …): the agent's state in c rows before the start, what led to them; see `Replay`
    starts: Starts
    weights: NDArray[np.float32]  # (B,), importance weights


class Replay:
    """Storage of rows plus a sampler of sequence starts.

    Args:
        capacity: rows over all environments. length: T.
        fields: name → (shape, dtype) of one row's entries.
        context: rows before a sequence whose `state` and `stoch` it comes with; with the `action` that led
            to each, zero for an episode's first, and whether it is `known`: of the episode of row −1, and
            stored like the row whose action led to it.
        mapped: name → file, for fields that stay on disk. They are no part of `state_dict`, and not
            to be changed by `write`.
        spare: with mapped fields, slots of each ring beyond its size. Rows added after a checkpoint
            go there first, so that a run that was killed finds its old rows in the files, as long as
            fewer than `spare` were added.
    """

    def __init__(
        self,
        capacity: int,
        num_envs: int,
        length: int,
        fields: dict[str, tuple[tuple[int, ...], Any]],
        sampler: Sampler,
        mapped: dict[str, Path] | None = None,
        spare: int = 0,
        context: int = 0,
    ) -> None:
        self.size = capacity // num_envs  # rows of each ring
        self._mapped = mapped or {}
        self._slots = self.size + (spare if mapped else 0)
        self.length, self.context = length, context
        self.sampler = sampler
        self._data = {
            name: _column(self._mapped.get(name), (num_envs, self._slots, *shape), dtype)
            for name, (shape, dtype) in fields.items()
        }
        self._seen = np.zeros((num_envs, self._slots), np.bool_)  # rows that were ever replayed
        self._added = np.zeros(num_envs, np.int64)  # rows ever stored, per environment
        self._offsets = np.arange(-1, length)

    @property
    def rows(self) -> int:
        """Rows stored now, over all environments."""
        return int(np.minimum(self._added, self.size).sum())

    def add(self, env: NDArray[np.int64], rows: Rows) -> None:
        """Append one row to each of the environments `env` (n,); `rows` holds (n, …) arrays."""
        row = self._added[env]
        slot = row % self._slots
        for name, column in self._data.items():
            column[env, slot] = rows[name]
        self._seen[env, (row - self.size) % self._slots] = False  # the row that falls out
        self._added[env] += 1
        self.sampler.added(env, row)

    def eligible(self) -> Eligible:
        """Starts whose T rows, and the row before, are still stored (row −1 of all needs none)."""
        low = np.where(self._added > self.size, self._added - self.size + 1, 0)
        return Eligible(low, np.maximum(self._added - self.length + 1, low))

    def ready(self, count: int) -> bool:
        """Whether at least `count` different sequences can be drawn."""
        low, high = self.eligible()
        return int((high - low).sum()) >= count

    def sample(self, count: int) -> Sample:
        """Draw `count` sequences. Raises RuntimeError when none is stored yet."""
        eligible = self.eligible()
        if (eligible.high == eligible.low).all():
            raise RuntimeError(f"the replay buffer holds no sequence of {self.length} rows yet")
        starts, weights = self.sampler.draw(count, eligible)
        rows, slots = self._gather(starts)
        self._seen[starts.env[:, None], slots[:, 1:]] = True
        return Sample(rows, self._past(starts), starts, weights)

    def peek(self, count: int, random: np.random.Generator) -> Sample:
        """Uniform draws that leave no trace in sampler or coverage: for measuring, not for learning."""
        eligible = self.eligible()
        starts = start_at(eligible, random.integers((eligible.high - eligible.low).sum(), size=count))
        return Sample(self._gather(starts)[0], self._past(starts), starts, np.ones(count, np.float32))

    def _gather(self, starts: Starts) -> tuple[Rows, NDArray[np.int64]]:
        """The rows from one before each start, and their slots, (B, T + 1). States come with the past."""
        slots = (starts.row[:, None] + self._offsets) % self._slots
        names = self._data.keys() - (PAST if self.context else ())
        return {name: self._data[name][starts.env[:, None], slots] for name in names}, slots

    def _past(self, starts: Starts) -> Rows:
        if not self.context:
            return {}
        env = starts.env[:, None]
        absolute = starts.row[:, None] + np.arange(-self.context, 0)  # (B, c)
        is_first = self._data["is_first"][env, absolute % self._slots].astype(np.bool_)
        later = is_first[:, ::-1].cumsum(1)[:, ::-1] - is_first  # episodes that begin after a row
        oldest = np.maximum(self._added - self.size, 0)[env]
        known = (later == 0) & (absolute - ~is_first >= oldest)  # with the row whose action led to it
        # No more columns than some sequence needs; few widths, so that their tensors are used again.
        columns = min(self.context, -(-int(known.sum(1).max()) // COLUMNS) * COLUMNS or 1)
        absolute, is_first, known = (x[:, -columns:] for x in (absolute, is_first, known))
        slots = absolute % self._slots
        past = {name: self._data[name][env, slots] for name in PAST}
        action = self._data["action"][env, (absolute - 1) % self._slots] * ~is_first[..., None]
        return past | {"action": action, "known": known}

    def update(self, starts: Starts, priorities: NDArray[np.float32]) -> None:
        """Tell the sampler what the learner found out about drawn sequences: (B,)."""
        self.sampler.update(starts, priorities)

    def write(self, starts: Starts, rows: Rows) -> None:
        """Replace fields of T rows from each start, (B, T, …), where they are still stored."""
        absolute = starts.row[:, None] + self._offsets[1:]  # (B, T)
        env = np.broadcast_to(starts.env[:, None], absolute.shape)
        stored = absolute >= self._added[env] - self.size
        slots = absolute % self._slots
        for name, values in rows.items():
            self._data[name][env[stored], slots[stored]] = values[stored]

    def metrics(self) -> dict[str, float]:
        """Scalars for the log; the sampler's are over the draws since the last call."""
        coverage = np.count_nonzero(self._seen) / max(self.rows, 1)
        return {"replay/rows": self.rows, "replay/coverage": coverage, **self.sampler.metrics()}

    def state_dict(self) -> dict[str, Any]:
        """The filled part of the rings as tensors, and the sampler's state."""
        filled = int(np.minimum(self._added, self._slots).max())
        for name in self._mapped:
            self._data[name].flush()  # type: ignore[attr-defined]
        data = {
            name: torch.from_numpy(column[:, :filled].copy())
            for name, column in self._data.items()
            if name not in self._mapped
        }
        return {
            "size": self.size,
            "slots": self._slots,
            "data": data,
            "added": self._added.tolist(),
            "coverage": {"seen": torch.from_numpy(self._seen[:, :filled].copy())},
            "sampler": self.sampler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises ValueError for the state of a ring of another size."""
        if state["size"] != self.size:
            raise ValueError(f"replay holds {state['size']} rows per environment, not {self.size}")
        if state["slots"] != self._slots:
            raise ValueError("with replay.mapped=true checkpoint.every must stay what it was")
        for name, tensor in state["data"].items():
            self._data[name][:, : tensor.shape[1]] = tensor.numpy()
        self._added[:] = state["added"]
        seen = state["coverage"]["seen"].numpy()
        self._seen[:, : seen.shape[1]] = seen
        self.sampler.load_state_dict(state["sampler"])


def _column(file: Path | None, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Zeros in memory, or the array in the file, which is made unless it is there in this shape."""
    if file is None:
        return np.zeros(shape, dtype)
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    there = file.exists() and file.stat().st_size == size
    file.parent.mkdir(parents=True, exist_ok=True)
    return np.memmap(file, dtype, mode="r+" if there else "w+", shape=shape)


def start_at(eligible: Eligible, number: NDArray[np.int64]) -> Starts:
    """The starts with the numbers (n,) when all that are eligible are counted, one environment after the
    other."""
    counts = eligible.high - eligible.low
    ends = counts.cumsum()
    env = ends.searchsorted(number, side="right")
    return Starts(env, eligible.low[env] + number - (ends - counts)[env])

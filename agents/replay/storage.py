"""A preallocated ring of rows, one column per environment, with vectorised gathers.

Row t of an environment holds o_t, the reward that came with it, whether it is an episode's first,
last or terminal row, the action a_t taken after it (zeros after an episode's last row) and the
agent's state at t, from which a later sequence can go on. An episode of L steps fills L + 1 rows.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from qdreamer.agents.replay.disk.chunks import ChunkedRows
from qdreamer.agents.replay.disk.journal import Journal
from qdreamer.agents.replay.diversity.selection import Everything, Selection
from qdreamer.agents.replay.sampler import Eligible, Sampler, Starts
from qdreamer.configs.sealed_file import Sum

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
        mapped: fields whose rows lie in files, which `write` cannot change. Then `state_dict` holds no rows:
            `files` names what has them, and what has changed of all other fields.
        selection: what takes a batch from more candidates than it has room for, by their latents.
        folder: of these files, two levels below the checkpoint's directory.
    """

    def __init__(
        self,
        capacity: int,
        num_envs: int,
        length: int,
        fields: dict[str, tuple[tuple[int, ...], Any]],
        sampler: Sampler,
        mapped: Sequence[str] = (),
        folder: Path | None = None,
        context: int = 0,
        selection: Selection | None = None,
    ) -> None:
        self.num_envs, self.size = num_envs, capacity // num_envs  # rings, and rows of each
        self._fields = fields
        self.length, self.context = length, context
        self.sampler, self.selection = sampler, selection or Everything()
        self._data = {
            name: np.zeros((num_envs, self.size, *shape), dtype)
            for name, (shape, dtype) in fields.items()
            if name not in mapped
        }
        self._chunks: dict[str, ChunkedRows] = {}
        self._journal: Journal | None = None
        if mapped and folder is not None:
            label = f"{folder.parent.name}/{folder.name}"
            self._chunks = {
                name: ChunkedRows(
                    folder / f"entry_{i}", f"{label}/entry_{i}", num_envs, self.size, *fields[name]
                )
                for i, name in enumerate(mapped)
            }
            self._journal = Journal(folder / "changes", f"{label}/changes", self._data)
        self._kept = np.zeros((2, num_envs), np.int64)  # first rows that the last two checkpoints need
        self._seen = np.zeros((num_envs, self.size), np.bool_)  # rows that were ever replayed
        self._strange = np.zeros((num_envs, self.size), np.bool_)  # rows that no agent has seen yet
        self._added = np.zeros(num_envs, np.int64)  # rows ever stored, per environment
        self._offsets = np.arange(-1, length)

    @property
    def rows(self) -> int:
        """Rows stored now, over all environments."""
        return int(np.minimum(self._added, self.size).sum())

    def mark_strange(self) -> None:
        """Say that all rows are somebody else's: their states mean nothing until `write` replaces them."""
        self._strange[np.arange(self.size) < self._added[:, None]] = True

    def blank(self, name: str) -> NDArray[Any]:
        """Return an entry of zeros."""
        shape, dtype = self._fields[name]
        return np.zeros(shape, dtype)

    def add(self, env: NDArray[np.int64], rows: Rows) -> None:
        """Append one row to each of the environments `env` (n,); `rows` holds (n, …) arrays."""
        row = self._added[env]
        slot = row % self.size
        for name, column in self._data.items():
            column[env, slot] = rows[name]
        for name, chunks in self._chunks.items():
            chunks.append(env, row, rows[name])
        if self._journal is not None:
            self._journal.changed[env, slot] = True
        self._seen[env, slot] = self._strange[env, slot] = False
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
        starts, weights = self._draw(count, eligible)
        rows = self._gather(starts)
        self._seen[starts.env[:, None], (starts.row[:, None] + self._offsets[1:]) % self.size] = True
        return Sample(rows, self._past(starts), starts, weights)

    def _draw(self, count: int, eligible: Eligible) -> tuple[Starts, NDArray[np.float32]]:
        starts, weights = self.sampler.draw(self.selection.candidates(count), eligible)
        if len(weights) == count:
            return starts, weights
        slots = (starts.row[:, None] + self._offsets[1:]) % self.size
        env = starts.env[:, None]
        known = ~self._strange[env, slots].any(1)
        taken, factors = self.selection.select(self._data["stoch"][env, slots], known, weights, count)
        return Starts(starts.env[taken], starts.row[taken]), (weights[taken] * factors).astype(np.float32)

    def peek(self, count: int, random: np.random.Generator) -> Sample:
        """Uniform draws that leave no trace in sampler or coverage: for measuring, not for learning."""
        eligible = self.eligible()
        starts = start_at(eligible, random.integers((eligible.high - eligible.low).sum(), size=count))
        return Sample(self._gather(starts), self._past(starts), starts, np.ones(count, np.float32))

    def _gather(self, starts: Starts) -> Rows:
        """The rows from one before each start, (B, T + 1, …). States come with the past."""
        env, absolute = starts.env[:, None], starts.row[:, None] + self._offsets
        slots = absolute % self.size
        names = self._data.keys() - (PAST if self.context else ())
        rows = {name: self._data[name][env, slots] for name in names}
        for name, chunks in self._chunks.items():
            rows[name] = chunks.take(env, absolute)
        return rows

    def _past(self, starts: Starts) -> Rows:
        if not self.context:
            return {}
        env = starts.env[:, None]
        absolute = starts.row[:, None] + np.arange(-self.context, 0)  # (B, c)
        is_first = self._data["is_first"][env, absolute % self.size].astype(np.bool_)
        later = is_first[:, ::-1].cumsum(1)[:, ::-1] - is_first  # episodes that begin after a row
        oldest = np.maximum(self._added - self.size, 0)[env]
        known = (later == 0) & (absolute - ~is_first >= oldest)  # with the row whose action led to it
        # No more columns than some sequence needs; few widths, so that their tensors are used again.
        columns = min(self.context, -(-int(known.sum(1).max()) // COLUMNS) * COLUMNS or 1)
        absolute, is_first, known = (x[:, -columns:] for x in (absolute, is_first, known))
        slots = absolute % self.size
        past = {name: self._data[name][env, slots] for name in PAST}
        action = self._data["action"][env, (absolute - 1) % self.size] * ~is_first[..., None]
        return past | {"action": action, "known": known}

    def update(self, starts: Starts, priorities: NDArray[np.float32]) -> None:
        """Tell the sampler what the learner found out about drawn sequences: (B,)."""
        self.sampler.update(starts, priorities)

    def write(self, starts: Starts, rows: Rows) -> None:
        """Replace fields of T rows from each start, (B, T, …), where they are still stored."""
        absolute = starts.row[:, None] + self._offsets[1:]  # (B, T)
        env = np.broadcast_to(starts.env[:, None], absolute.shape)
        stored = absolute >= self._added[env] - self.size
        slots = absolute % self.size
        self._strange[env[stored], slots[stored]] = False
        for name, values in rows.items():
            self._data[name][env[stored], slots[stored]] = values[stored]
        if self._journal is not None:
            self._journal.changed[env[stored], slots[stored]] = True

    def metrics(self) -> dict[str, float]:
        """Scalars for the log; the sampler's are over the draws since the last call."""
        coverage = np.count_nonzero(self._seen) / max(self.rows, 1)
        return {"replay/rows": self.rows, "replay/coverage": coverage, **self.sampler.metrics()}

    def full_bytes(self) -> tuple[int, int]:
        """Bytes that the rows of full rings take in memory and in files; samplers' trees are small beside."""
        in_files = self.size * sum(chunks.row_bytes * chunks.num_envs for chunks in self._chunks.values())
        return sum(column.nbytes for column in self._data.values()), in_files

    def state_dict(self) -> dict[str, Any]:
        """The sampler's state, and the filled part of the rings as tensors unless `files` names it: to be
        saved before the next row comes, as what is contiguous is not copied."""
        filled = int(np.minimum(self._added, self.size).max())
        rows = {} if self._chunks else {name: _filled(column, filled) for name, column in self._data.items()}
        mapped = {"chunk_rows": {name: chunks.rows for name, chunks in self._chunks.items()}}
        return {
            "size": self.size,
            "slots": self.size,
            "data": rows,
            **(mapped if self._chunks else {}),
            "added": self._added.tolist(),
            "coverage": {"seen": _filled(self._seen, filled), "strange": _filled(self._strange, filled)},
            "sampler": self.sampler.state_dict(),
            "selection": self.selection.state_dict(),
        }

    def files(self) -> dict[str, Sum]:
        """What a checkpoint of now needs of which files, which have reached the disk. Raises OSError."""
        if self._journal is None:
            return {}
        known = self._journal.files(np.arange(self.size) < self._added[:, None])
        for chunks in self._chunks.values():
            known |= chunks.files(self._added)
        return known

    def saved(self) -> None:
        """A checkpoint of now is in place: free what neither it nor the one before needs."""
        if self._journal is not None:
            self._journal.saved()
        self._kept = np.stack([self._kept[1], np.maximum(self._added - self.size, 0)])
        for chunks in self._chunks.values():
            chunks.free(self._kept[0].tolist())

    def load_state_dict(self, state: dict[str, Any], files: dict[str, Sum] | None = None) -> None:
        """Go on from a state, and the files of that moment. Rows that it holds are moved to files if need be.

        Raises ValueError for the state of a ring of another size, and of rows in files that are wanted here.
        """
        if state["size"] != self.size:
            raise ValueError(f"replay holds {state['size']} rows per environment, not {self.size}")
        chunk_rows, files = state.get("chunk_rows", {}), files or {}
        if state["slots"] != self.size or chunk_rows.keys() - self._chunks.keys():
            raise ValueError("its rows lie in files: replay.mapped must stay what it was")
        self._added[:] = state["added"]
        if self._journal is not None and chunk_rows:
            self._journal.load(files)
        for name, rows in chunk_rows.items():
            if rows != self._chunks[name].rows:
                raise ValueError(f"its chunks have {rows} rows, not {self._chunks[name].rows}")
            self._chunks[name].load(self._added, files)
        for name, tensor in state["data"].items():
            if name in self._chunks:
                self._move(tensor.numpy(), self._chunks[name])
            else:
                self._data[name][:, : tensor.shape[1]] = tensor.numpy()
        self._kept[:] = np.maximum(self._added - self.size, 0)
        seen = state["coverage"]["seen"].numpy()
        self._seen[:, : seen.shape[1]] = seen
        if "strange" in state["coverage"]:  # earlier checkpoints have none
            self._strange[:, : seen.shape[1]] = state["coverage"]["strange"].numpy()
        self.sampler.load_state_dict(state["sampler"])
        self.selection.load_state_dict(state.get("selection", {}))  # earlier checkpoints have none

    def _move(self, ring: NDArray[Any], chunks: ChunkedRows) -> None:
        """Write the rows of rings (N, filled, …) to files."""
        for env, added in enumerate(self._added.tolist()):
            first = max(added - self.size, 0)
            for row in range(first - first % chunks.rows, added, chunks.rows):  # those before are never read
                slots = np.arange(row, min(row + chunks.rows, added)) % self.size
                chunks.extend(env, row, ring[env, slots])


def _filled(column: NDArray[Any], filled: int) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(column[:, :filled]))


def start_at(eligible: Eligible, number: NDArray[np.int64]) -> Starts:
    """The starts with the numbers (n,) when all that are eligible are counted, one environment after the
    other."""
    counts = eligible.high - eligible.low
    ends = counts.cumsum()
    env = ends.searchsorted(number, side="right")
    return Starts(env, eligible.low[env] + number - (ends - counts)[env])

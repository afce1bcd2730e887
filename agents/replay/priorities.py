"""The weight of every sequence start in the replay: a sum tree over the slots of the ring.

Leaf slot·N + e belongs to the start in this slot of environment e, so that what is filled is always
the front of the tree. Starts that cannot be drawn have weight 0.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qdreamer.agents.replay.sampler import Eligible, Starts
from qdreamer.agents.replay.storage import start_at
from qdreamer.agents.replay.sum_tree import Floats, Ints, SumTree
from qdreamer.agents.replay.transforms import LEAST, MOST, Seen, Transform

MEMORY = 0.999  # per update, of the largest error: losses fall as the model learns
REFIT = 0.1  # share of the starts whose error has changed since the last fit


class Priorities:
    """Weights of N · `size` starts, kept up with the ring and with what the learner measures.

    A new start gets the largest error seen lately. The weight is transform(error, visits) plus
    bonus · decay^visits (curious replay: Kauvar et al. 2023, eq. 2). 20 bytes per start, 24 with a
    transform that compares.
    """

    def __init__(
        self, num_envs: int, size: int, transform: Transform, bonus: float = 0.0, decay: float = 1.0
    ) -> None:
        self.num_envs, self.size = num_envs, size
        self.tree = SumTree(num_envs * size)
        self.visits = np.zeros(num_envs * size, np.int32)  # batches it was in since it became drawable
        self._transform, self._bonus, self._decay = transform, bonus, decay
        self._errors = np.zeros(num_envs * size if transform.fitted else 0, np.float32)
        self._low, self._high = np.zeros(num_envs, np.int64), np.zeros(num_envs, np.int64)
        self.seen = Seen(0, 0.0, 0)
        self._changed = 0  # errors since the last fit

    @property
    def count(self) -> int:
        """Starts that can be drawn."""
        return int((self._high - self._low).sum())

    @property
    def filled(self) -> int:
        """Leaves from here on were never used."""
        return int(min(self._high.max(), self.size)) * self.num_envs

    def sync(self, eligible: Eligible) -> None:
        """Follow the ring: overwritten starts lose their weight, new ones get the largest."""
        low, high = eligible
        if (low == self._low).all() and (high == self._high).all():
            return
        gone = self._leaves(*_ranges(self._low, np.minimum(low, self._high)))
        new = self._leaves(*_ranges(np.maximum(low, self._high), high))
        self._low, self._high = low.copy(), high.copy()
        self.visits[new] = 0
        if self._transform.fitted:
            self._errors[new] = self.seen.largest
        # A slot that was overwritten may hold a new start by now: the last weight counts.
        weights = np.concatenate([np.zeros(len(gone)), np.full(len(new), self._new_weight())])
        self.tree.set(np.concatenate([gone, new]), weights)

    def update(self, starts: Starts, errors: NDArray[Any]) -> None:
        """New errors (n,) of drawn starts; those overwritten meanwhile are left out.

        Raises FloatingPointError for errors that are not finite, ValueError for negative ones.
        """
        values = np.asarray(errors, np.float64)
        if not np.isfinite(values).all():
            raise FloatingPointError("replay priorities are not finite")
        if (values < 0.0).any():
            raise ValueError(f"replay priorities must not be negative, as {values.min():g} is")
        stored = (starts.row >= self._low[starts.env]) & (starts.row < self._high[starts.env])
        leaf, values = self._leaves(starts.env[stored], starts.row[stored]), values[stored]
        if not len(leaf):
            return
        self.visits[leaf] = self.visits.take(leaf) + 1
        first = self.seen.updates == 0
        self.seen = Seen(
            self.seen.updates + 1,
            max(MEMORY * self.seen.largest, float(values.max())),
            max(self.seen.visits, int(self.visits[leaf].max())),
        )
        if first:  # unvisited starts had no error to go by
            unvisited = self.drawable()
            if self._transform.fitted:
                self._errors[unvisited] = self.seen.largest
            self.tree.set(unvisited, self._new_weight())
        if self._transform.fitted:
            self._errors[leaf] = values
            self._changed += len(leaf)
            if first or self._changed > REFIT * self.count:
                self._refit()
                return
        self.tree.set(leaf, self._weights(values, self.visits[leaf]))

    def drawable(self) -> Ints:
        """The leaves (N,) of all starts that can be drawn."""
        return self._leaves(*_ranges(self._low, self._high))

    def uniform(self, number: Ints) -> Ints:
        """Numbers (n,) in [0, count) → leaves, each start once."""
        return self._leaves(*start_at(Eligible(self._low, self._high), number))

    def starts(self, leaf: Ints) -> Starts:
        """Leaves (n,) → starts."""
        slot, env = np.divmod(leaf, self.num_envs)
        low = self._low[env]
        # Slots below the lowest row's hold rows of the next round.
        row = slot + (low - low % self.size)
        row += self.size * (row < low)
        return Starts(env, row)

    def _leaves(self, env: Ints, row: Ints) -> Ints:
        return row % self.size * self.num_envs + env

    def _new_weight(self) -> float:
        return float(self._weights(np.array([self.seen.largest]), np.zeros(1))[0])

    def _weights(self, errors: Floats, visits: NDArray[Any]) -> Floats:
        weights = self._transform(errors, visits, self.seen)
        if self._bonus:
            weights = weights + self._bonus * self._decay**visits
        return np.minimum(np.maximum(weights, LEAST), MOST)

    def _refit(self) -> None:
        leaf = self.drawable()
        errors = self._errors[leaf].astype(np.float64)
        self._transform.fit(errors)
        self.tree.set(leaf, self._weights(errors, self.visits[leaf]))
        self._changed = 0

    def state_dict(self) -> dict[str, Any]:
        filled = self.filled
        return {
            "leaves": torch.from_numpy(self.tree.leaves[:filled].copy()),
            "visits": torch.from_numpy(self.visits[:filled].copy()),
            "errors": torch.from_numpy(self._errors[:filled].copy()),
            "low": self._low.tolist(),
            "high": self._high.tolist(),
            "seen": list(self.seen),
            "changed": self._changed,
            "transform": self._transform.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        leaves = state["leaves"].numpy()
        self.tree.set(np.arange(len(leaves)), leaves)
        self.visits[: len(leaves)] = state["visits"].numpy()
        self._errors[: len(state["errors"])] = state["errors"].numpy()
        self._low[:], self._high[:] = state["low"], state["high"]
        self.seen = Seen(*state["seen"])
        self._changed = state["changed"]
        self._transform.load_state_dict(state["transform"])


def _ranges(low: Ints, high: Ints) -> tuple[Ints, Ints]:
    """Every environment's rows low … high − 1 as (environment, row), both (n,)."""
    counts = np.maximum(high - low, 0)
    env = np.repeat(np.arange(len(counts)), counts)
    first = np.cumsum(counts) - counts
    return env, np.arange(counts.sum()) + (low - first)[env]

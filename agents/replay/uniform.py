"""Uniform replay of sequences, with DreamerV3's online queue."""

import json
from collections import deque
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from qdreamer.agents.replay.config import SAMPLERS, ReplayConfig
from qdreamer.agents.replay.sampler import Eligible, Sampler, Starts
from qdreamer.agents.replay.storage import start_at
from qdreamer.configs.schema import Bool, settings


@settings
class UniformConfig(ReplayConfig):
    online: Bool  # new sequences are replayed once before uniform draws

    def check(self, root: Any) -> None:
        super().check(root)
        if self.online and self.times > 1:
            raise ValueError(
                f"replay.diverse={self.diverse} leaves out most candidates, which replay.online=true would "
                "count as replayed: set replay.online=false"
            )


@SAMPLERS.register("uniform", UniformConfig)
class UniformSampler(Sampler):
    """Every eligible start is equally likely; new, non-overlapping sequences go first, once.

    Args:
        length: T, rows of a sequence. online: whether new sequences are queued.
        seed: of the sampler's own generator.
    """

    def __init__(self, num_envs: int, length: int, online: bool, seed: int) -> None:
        self._length, self._online = length, online
        self._random = np.random.default_rng(np.random.SeedSequence([2, seed]))
        self._queue: deque[tuple[int, int]] = deque()
        self._next = np.zeros(num_envs, np.int64)  # first row of the next sequence to queue

    @classmethod
    def make(cls, config: UniformConfig, num_envs: int, length: int, seed: int, circuits: Any) -> Self:
        return cls(num_envs, length, config.online, seed)

    def added(self, env: NDArray[np.int64], row: NDArray[np.int64]) -> None:
        if not self._online:
            return
        complete = row + 1 - self._next[env] >= self._length
        for e in env[complete]:
            self._queue.append((int(e), int(self._next[e])))
            self._next[e] += self._length

    def draw(self, count: int, eligible: Eligible) -> tuple[Starts, NDArray[np.float32]]:
        fresh: list[tuple[int, int]] = []
        while self._queue and len(fresh) < count:
            e, r = self._queue.popleft()
            if r >= eligible.low[e]:  # else overwritten before its turn came
                fresh.append((e, r))
        total = (eligible.high - eligible.low).sum()
        env, row = start_at(eligible, self._random.integers(total, size=count - len(fresh)))
        if fresh:
            new = np.asarray(fresh, np.int64)
            env, row = np.concatenate([new[:, 0], env]), np.concatenate([new[:, 1], row])
        return Starts(env, row), np.ones(count, np.float32)

    def state_dict(self) -> dict[str, Any]:
        return {
            "random": json.dumps(self._random.bit_generator.state),
            "queue": [list(pair) for pair in self._queue],
            "next": self._next.tolist(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._random.bit_generator.state = json.loads(state["random"])
        self._queue = deque((int(e), int(r)) for e, r in state["queue"])
        self._next[:] = state["next"]

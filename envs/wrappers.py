"""Wrappers around single environments."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TransformObservation


def hide_entries(env: gymnasium.Env[Any, Any], hide: tuple[int, ...]) -> gymnasium.Env[Any, Any]:
    """Remove entries of a vector observation (velocities, say): partial observability.

    Raises ValueError when an index is out of range, doubled, or nothing would be left to see.
    """
    space = env.observation_space
    if not isinstance(space, spaces.Box) or len(space.shape) != 1:
        raise ValueError("env.hide needs a vector observation")
    size = space.shape[0]
    if min(hide) < 0 or max(hide) >= size or len(set(hide)) != len(hide) or len(hide) >= size:
        raise ValueError(
            f"env.hide={list(hide)} must be different indices from 0 to {size - 1} "
            "that leave at least one entry to see"
        )
    keep = np.setdiff1d(np.arange(size), hide)
    seen = spaces.Box(space.low[keep], space.high[keep], dtype=space.dtype.type)
    return TransformObservation(env, lambda observation: observation[keep], seen)


class RestoreByReplay(gymnasium.Wrapper):
    """Lets a vector environment bring each member back to where it was, from seed and actions.

    This is how a resumed run gets its running episodes back without pickling simulators. It holds
    for every environment whose episode is determined by its reset seed and actions.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], index: int) -> None:
        super().__init__(env)
        self._index = index

    def restore_by_replay(self, seeds: list[int], actions: list[np.ndarray]) -> np.ndarray:
        """Reset to `seeds[index]`, replay `actions[index]`, return the last observation."""
        observation, _ = self.env.reset(seed=seeds[self._index])
        for action in actions[self._index]:
            observation, *_ = self.env.step(action[()])  # 0-d arrays as scalars
        return np.asarray(observation)

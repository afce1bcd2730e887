"""Wrappers around single environments."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class HideObservation(gymnasium.ObservationWrapper):
    """Removes named entries of a vector observation (velocities, say): partial observability.

    Raises ValueError when an index is out of range, doubled, or nothing would be left to see.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], hide: tuple[int, ...]) -> None:
        super().__init__(env)
        space = env.observation_space
        if not isinstance(space, spaces.Box) or len(space.shape) != 1:
            raise ValueError("env.hide needs a vector observation")
        size = space.shape[0]
        if min(hide) < 0 or max(hide) >= size or len(set(hide)) != len(hide) or len(hide) >= size:
            raise ValueError(
                f"env.hide={list(hide)} must be different indices from 0 to {size - 1} "
                "that leave at least one entry to see"
            )
        self._keep = np.setdiff1d(np.arange(size), hide)
        self.observation_space = spaces.Box(
            space.low[self._keep], space.high[self._keep], dtype=space.dtype.type
        )

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return observation[self._keep]


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

"""Wrappers around single environments."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TransformObservation

from qdreamer.envs.leaves import UnsupportedSpaceError


def hide_entries(env: gymnasium.Env[Any, Any], hide: tuple[int, ...]) -> gymnasium.Env[Any, Any]:
    """Remove entries of a vector observation (velocities, say): partial observability.

    Raises UnsupportedSpaceError when an index is out of range, doubled, or nothing would be left to see.
    """
    space = env.observation_space
    if not isinstance(space, spaces.Box) or len(space.shape) != 1:
        raise UnsupportedSpaceError(
            "env.hide needs a vector observation: env.entries.NAME=ignore leaves out whole entries"
        )
    size = space.shape[0]
    if min(hide) < 0 or max(hide) >= size or len(set(hide)) != len(hide) or len(hide) >= size:
        raise UnsupportedSpaceError(
            f"env.hide={list(hide)} must be different indices from 0 to {size - 1} "
            "that leave at least one entry to see"
        )
    keep = np.setdiff1d(np.arange(size), hide)
    seen = spaces.Box(space.low[keep], space.high[keep], dtype=space.dtype.type)
    return TransformObservation(env, lambda observation: observation[keep], seen)

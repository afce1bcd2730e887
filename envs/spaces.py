"""What an environment shows and accepts, reduced to the two kinds that the agent knows."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import Space, spaces


class UnsupportedSpaceError(ValueError):
    """An observation or action space that the agent cannot use; the message names the fix."""


@dataclass(frozen=True)
class ObservationSpec:
    """A vector of `size` numbers, or one of `size` classes."""

    size: int
    discrete: bool
    start: int = 0


@dataclass(frozen=True)
class ActionSpec:
    """One of `size` classes, or `size` numbers in [−1, 1]."""

    size: int
    discrete: bool
    start: int = 0


def observation_spec(space: Space[Any]) -> ObservationSpec:
    """Describe a space. Raises UnsupportedSpaceError for all but Discrete and non-image Box spaces."""
    if isinstance(space, spaces.Discrete):
        return ObservationSpec(int(space.n), True, int(space.start))
    if isinstance(space, spaces.Box):
        if len(space.shape) >= 3 or (len(space.shape) == 2 and space.dtype == np.uint8):
            raise UnsupportedSpaceError(
                f"observations are images {space.shape}; only vectors and Discrete are supported yet: "
                "choose a state-based version of the environment"
            )
        return ObservationSpec(int(np.prod(space.shape)), False)
    raise UnsupportedSpaceError(
        f"observation space {type(space).__name__} is not supported: use Box or Discrete "
        "(for Dict and Tuple spaces, register the environment wrapped in gymnasium's FlattenObservation)"
    )


def action_spec(space: Space[Any]) -> ActionSpec:
    """Describe a space. Raises UnsupportedSpaceError for all but Discrete and bounded Box spaces."""
    if isinstance(space, spaces.Discrete):
        return ActionSpec(int(space.n), True, int(space.start))
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        if not space.is_bounded("both"):
            raise UnsupportedSpaceError(
                f"the action space {space} has no finite bounds: give its Box finite low and high"
            )
        return ActionSpec(int(np.prod(space.shape)), False)
    raise UnsupportedSpaceError(
        f"action space {type(space).__name__} is not supported: use Discrete or a bounded Box of floats"
    )

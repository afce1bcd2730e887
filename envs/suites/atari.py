"""What Atari's field does to ALE's frames before an agent sees them.

Sticky actions, as Machado et al. (2018) ask for, are ALE's own: env.kwargs.repeat_action_probability.
"""

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]


class Pooled(gymnasium.ObservationWrapper):
    """Each pixel is the larger of this frame's and the last one's: sprites flicker (Mnih et al., 2015).

    It belongs inside of the repetition of actions, where it sees every frame.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self._before: Frame | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Frame, dict[str, Any]]:
        self._before = None
        return super().reset(seed=seed, options=options)

    def observation(self, observation: Frame) -> Frame:
        before, self._before = self._before, observation
        return observation if before is None else np.maximum(observation, before)


class LifeLoss(gymnasium.Wrapper):
    """An episode ends with the first life that is lost, and the next one is a new game.

    Machado et al. advise against it: a choice for short runs.
    """

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        lives = self.env.unwrapped.ale.lives()  # type: ignore[attr-defined]
        observation, reward, terminal, truncated, info = self.env.step(action)
        return observation, reward, terminal or info["lives"] < lives, truncated, info

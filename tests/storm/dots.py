"""A small world of images, so that replay has files to keep: a dot that is pushed about."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

SIDE = 16
LIMIT = 30  # steps of an episode


class Dot(gymnasium.Env[NDArray[np.uint8], int]):
    """A dot goes left or right and drifts at random; 1 for each step in which it is in the middle third."""

    observation_space = spaces.Box(0, 255, (SIDE, SIDE, 1), np.uint8)
    action_space = spaces.Discrete(2)

    def reset(
        self, *, seed: int | None = None, options: Any = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        super().reset(seed=seed)
        self._place, self._steps = int(self.np_random.integers(SIDE)), 0
        return self._image(), {}

    def step(self, action: int) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        drift = int(self.np_random.integers(-1, 2))
        self._place = int(np.clip(self._place + (1 if action else -1) + drift, 0, SIDE - 1))
        self._steps += 1
        middle = SIDE // 3 <= self._place < SIDE - SIDE // 3
        return self._image(), float(middle), False, self._steps >= LIMIT, {}

    def _image(self) -> NDArray[np.uint8]:
        image = np.zeros((SIDE, SIDE, 1), np.uint8)
        image[6:10, max(self._place - 1, 0) : self._place + 2] = 255
        return image


gymnasium.register("Dot-v0", Dot)

"""Crafter (Hafner, 2021): survive and unlock 22 achievements, seen in frames of 64×64.

The package has the interface that Gym had before seeds were given to `reset`.
"""

from collections import defaultdict
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray


class Things(dict[Any, None]):
    """What Crafter keeps of each region, in order: its sets go by addresses in memory, each time others."""

    def add(self, thing: Any) -> None:
        self[thing] = None

    def remove(self, thing: Any) -> None:
        del self[thing]


class Crafter(gymnasium.Env[NDArray[np.uint8], Any]):
    """One world for each seed. Rewards are 1 for each achievement's first time, and ± 0.1 for health.

    `info["achievements"]` counts each by name. Raises DependencyNotInstalled.

    Args:
        reward: without it every reward is 0. length: steps after which an episode is cut. size: of frames.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012 - Gymnasium's form

    def __init__(
        self, reward: bool = True, length: int = 10000, size: int = 64, render_mode: str | None = None
    ) -> None:
        try:
            import crafter
        except ImportError as error:
            raise gymnasium.error.DependencyNotInstalled(str(error)) from error
        self.render_mode, self._length = render_mode, length
        self._env = crafter.Env(size=(size, size), reward=reward, length=length, seed=0)
        self.observation_space = spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.action_space = spaces.Discrete(len(self._env.action_names))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        super().reset(seed=seed)
        # Crafter draws a world from (its seed, the number of the episode).
        self._env._seed, self._env._episode = int(self.np_random.integers(2**31 - 1)), 0
        observation, world = self._env.reset(), self._env._world
        place = {thing: i for i, thing in enumerate(world._objects)}
        world._chunks = defaultdict(
            Things, {k: Things.fromkeys(sorted(v, key=place.__getitem__)) for k, v in world._chunks.items()}
        )
        return observation, {}

    def step(self, action: int) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        observation, reward, done, info = self._env.step(int(action))
        info["player_pos"] = info["player_pos"].copy()
        dead = info["discount"] == 0.0
        return observation, float(reward), dead, bool(done) and not dead, info

    def render(self) -> Any:
        random = self._env._world.random  # darkness is drawn: looking must not change what comes
        state = random.get_state()
        picture = self._env.render((256, 256))
        random.set_state(state)
        return picture

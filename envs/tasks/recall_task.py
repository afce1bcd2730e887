"""What the memory tasks have in common: an episode is a table, drawn when it begins."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

Table = NDArray[np.float32]  # (steps, entries)
NO_QUESTION = -1


def bits(numbers: Any, width: int) -> Table:
    """Binary digits as ±1, the most significant first: (...,) → (..., width)."""
    digits = np.asarray(numbers)[..., None] >> np.arange(width)[::-1] & 1
    return (2 * digits - 1).astype(np.float32)


class RecallTask(gymnasium.Env[NDArray[np.float32], np.int64]):
    """Shows a vector each step, and asks in some for a value of `value_bits` bits, which is the action.

    Entries that carry nothing are 0. The last `noise` entries are drawn from N(0, 1), anew each step. After
    the last step nothing is shown, and the episode is terminal.

    Args:
        informative: entries that are not noise.
        right, wrong: rewards of an answer. Actions in steps that ask for nothing earn 0.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012 - Gymnasium's convention

    def __init__(
        self,
        informative: int,
        value_bits: int,
        noise: int = 0,
        right: float = 1.0,
        wrong: float = 0.0,
        render_mode: str | None = None,
    ) -> None:
        high = np.array([1.0] * informative + [np.inf] * noise, np.float32)
        self.observation_space = spaces.Box(-high, high)
        self.action_space = spaces.Discrete(2**value_bits)
        self.render_mode = render_mode
        self._informative, self._noise = informative, noise
        self._right, self._wrong = right, wrong

    def episode(self) -> tuple[Table, NDArray[np.int64]]:
        """Draw what each step shows (steps, informative), and its right answer, or NO_QUESTION (steps,)."""
        raise NotImplementedError

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        shown, self._answers = self.episode()
        steps = len(shown) + 1  # the observation after the last step included
        self._table = np.zeros((steps, self._informative + self._noise), np.float32)
        self._table[:-1, : self._informative] = shown
        self._table[:, self._informative :] = self.np_random.standard_normal((steps, self._noise))
        self._time = 0
        return self._table[0].copy(), {}

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        answer, reward = self._answers[self._time], 0.0
        if answer != NO_QUESTION:
            reward = self._right if action == answer else self._wrong
        self._time += 1
        return self._table[self._time].copy(), reward, self._time == len(self._answers), False, {}

    def render(self) -> NDArray[np.uint8] | None:
        """The episode so far as a picture: a column a step, a row an entry; black −1, white 1."""
        if self.render_mode is None:
            return None
        seen = self._table * (np.arange(len(self._table)) <= self._time)[:, None]
        grey = np.clip(127.5 * (seen.T + 1.0), 0, 255).astype(np.uint8)
        return grey.repeat(8, 0).repeat(8, 1)[:, :, None].repeat(3, 2)

"""Key–value pairs, some of which are asked for later."""

import numpy as np
from numpy.typing import NDArray

from qdreamer.envs.tasks.recall_task import NO_QUESTION, RecallTask, Table, bits


class Pairs(RecallTask):
    """Shows `pairs` different keys with their values, pauses, and asks `asks` times for the value of a key.

    Observation: key bits, value bits, flag, noise. The flag is 1 in a step that asks for a key, and −1 in the
    one after it, which shows the right value. An episode has pairs + delay + 2·asks steps. A right answer
    earns 1.

    Raises ValueError for more pairs than there are keys.
    """

    def __init__(
        self,
        pairs: int = 4,
        key_bits: int = 3,
        value_bits: int = 2,
        delay: int = 1,
        asks: int = 10,
        noise: int = 1,
        render_mode: str | None = None,
    ) -> None:
        if not 1 <= pairs <= 2**key_bits:
            raise ValueError(
                f"pairs={pairs} must lie between 1 and the {2**key_bits} keys of {key_bits} bits"
            )
        super().__init__(key_bits + value_bits + 1, value_bits, noise, render_mode=render_mode)
        self._pairs, self._key_bits, self._value_bits = pairs, key_bits, value_bits
        self._delay, self._asks = delay, asks

    def episode(self) -> tuple[Table, NDArray[np.int64]]:
        """Keys are uniform without repeats, values uniform, asked keys uniform among those shown."""
        keys = self.np_random.permutation(2**self._key_bits)[: self._pairs]
        values = self.np_random.integers(2**self._value_bits, size=self._pairs)
        asked = self.np_random.integers(self._pairs, size=self._asks)
        first = self._pairs + self._delay  # step of the first question
        questions = first + 2 * np.arange(self._asks)
        shown = np.zeros((first + 2 * self._asks, self._informative), np.float32)
        key, value, flag = np.split(shown, [self._key_bits, self._informative - 1], axis=1)  # views
        key[: self._pairs], value[: self._pairs] = bits(keys, self._key_bits), bits(values, self._value_bits)
        key[questions], flag[questions] = bits(keys[asked], self._key_bits), 1.0
        value[questions + 1], flag[questions + 1] = bits(values[asked], self._value_bits), -1.0
        answers = np.full(len(shown), NO_QUESTION)
        answers[questions] = values[asked]
        return shown, answers

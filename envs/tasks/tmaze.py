"""A corridor with a cue at its beginning that counts at its end (after Bakker, 2001)."""

import numpy as np
from numpy.typing import NDArray

from qdreamer.envs.tasks.recall_task import NO_QUESTION, RecallTask, Table, bits


class TMaze(RecallTask):
    """Shows a value, then nothing, and asks for the value at the end of the corridor.

    Observation: value bits, flag, noise. The flag is 1 in the step that asks, `corridor` steps after the cue
    (uniform from `shortest` to `longest`), and −1 in the last step, which shows the right value. An episode
    has corridor + 2 steps; the right answer earns 1.

    Raises ValueError unless 1 ≤ shortest ≤ longest.
    """

    def __init__(
        self,
        shortest: int = 8,
        longest: int = 15,
        value_bits: int = 2,
        noise: int = 2,
        render_mode: str | None = None,
    ) -> None:
        if not 1 <= shortest <= longest:
            raise ValueError(f"shortest={shortest} must lie between 1 and longest={longest}")
        super().__init__(value_bits + 1, value_bits, noise, render_mode=render_mode)
        self._shortest, self._longest, self._value_bits = shortest, longest, value_bits

    def episode(self) -> tuple[Table, NDArray[np.int64]]:
        value = self.np_random.integers(2**self._value_bits)
        corridor = int(self.np_random.integers(self._shortest, self._longest, endpoint=True))
        shown = np.zeros((corridor + 2, self._informative), np.float32)
        shown[[0, -1], :-1] = bits(value, self._value_bits)
        shown[-2:, -1] = 1.0, -1.0
        answers = np.full(len(shown), NO_QUESTION)
        answers[corridor] = value
        return shown, answers

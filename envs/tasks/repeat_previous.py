"""Values in a row, to be named some steps late (after POPGym; Morad et al., 2023)."""

import numpy as np
from numpy.typing import NDArray

from qdreamer.envs.tasks.recall_task import NO_QUESTION, RecallTask, Table, bits


class RepeatPrevious(RecallTask):
    """Shows a value each step, drawn uniformly, and asks in every step from `k` on for that of `k` steps ago.

    Observation: value bits. An episode has `length` steps; an answer earns ±1/(length − k).

    Raises ValueError unless 1 ≤ k < length.
    """

    def __init__(
        self, k: int = 4, length: int = 64, value_bits: int = 2, render_mode: str | None = None
    ) -> None:
        if not 1 <= k < length:
            raise ValueError(f"k={k} must lie between 1 and length - 1 = {length - 1}")
        share = 1.0 / (length - k)
        super().__init__(value_bits, value_bits, right=share, wrong=-share, render_mode=render_mode)
        self._k, self._length = k, length

    def episode(self) -> tuple[Table, NDArray[np.int64]]:
        values = self.np_random.integers(2**self._informative, size=self._length)
        answers = np.full(self._length, NO_QUESTION)
        answers[self._k :] = values[: -self._k]
        return bits(values, self._informative), answers

"""Associative recall as an environment: actions write values under keys, and later ask for them.

An action is [key bits, value bits, ask], bits as ±1; an observation is [value bits, answering]. First come
`pairs` writes of a random value under a new key, with nothing to observe (0); then the keys are asked
(value 0, ask 1) in another order, and the observation that follows is the value. Nothing but memory tells it.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

VALUE_BITS = 4


class Recall(NamedTuple):
    """How many pairs an episode has, of 2^key_bits possible keys."""

    pairs: int = 8
    key_bits: int = 4

    @property
    def action(self) -> int:
        """A."""
        return self.key_bits + VALUE_BITS + 1

    @property
    def observation(self) -> int:
        """O."""
        return VALUE_BITS + 1

    @property
    def rows(self) -> int:
        """Of an episode: L + 1, where L = 2·pairs."""
        return 2 * self.pairs + 1

    def episode(self, random: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Observations (L + 1, O) and actions (L, A) of one episode."""
        n = self.pairs
        keys = _bits(random.permutation(2**self.key_bits)[:n], self.key_bits)  # (n, key_bits)
        values = _bits(random.integers(2**VALUE_BITS, size=n), VALUE_BITS)  # (n, VALUE_BITS)
        order = random.permutation(n)
        blank = np.zeros((n, VALUE_BITS), np.float32)
        writes = np.hstack([keys, values, np.zeros((n, 1), np.float32)])
        asks = np.hstack([keys[order], blank, np.ones((n, 1), np.float32)])
        observations = np.zeros((self.rows, self.observation), np.float32)
        observations[-n:, :VALUE_BITS] = values[order]
        observations[-n:, -1] = 1.0
        return observations, np.vstack([writes, asks])


def _bits(numbers: NDArray[np.int64], count: int) -> NDArray[np.float32]:
    return np.where(numbers[:, None] >> np.arange(count) & 1, 1.0, -1.0).astype(np.float32)

"""The interface between the replay storage and whatever chooses what is replayed."""

from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from qdreamer.quantum.jobs.access import CircuitAccess


class Starts(NamedTuple):
    """First rows of B sequences. Rows are counted per environment from 0 and never reused."""

    env: NDArray[np.int64]  # (B,)
    row: NDArray[np.int64]  # (B,)


class Eligible(NamedTuple):
    """Where a sequence may start: rows low[e] … high[e] − 1 of environment e, (N,) each."""

    low: NDArray[np.int64]
    high: NDArray[np.int64]  # at least low


class Sampler(Protocol):
    """Chooses sequence starts. Implementations keep their own random generator."""

    @classmethod
    def make(cls, config: Any, num_envs: int, length: int, seed: int, circuits: CircuitAccess) -> Self:
        """The sampler of sequences of T = `length` rows from `num_envs` environments."""
        ...

    def added(self, env: NDArray[np.int64], row: NDArray[np.int64]) -> None:
        """Rows have just been stored: (n,), (n,)."""

    def draw(self, count: int, eligible: Eligible) -> tuple[Starts, NDArray[np.float32]]:
        """`count` starts and their importance weights w = 1/(N·q), (count,)."""
        ...

    def update(self, starts: Starts, priorities: NDArray[np.float32]) -> None:
        """What the learner found out about drawn sequences: (B,) priorities."""

    def metrics(self) -> dict[str, float]:
        """Scalars for the log, over the draws since the last call."""
        return {}

    def histograms(self) -> dict[str, NDArray[Any]]:
        """Values for TensorBoard's histograms, at most some thousands each."""
        return {}

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...

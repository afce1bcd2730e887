"""From what the learner measured on a sequence to the weight that it is drawn with.

Errors e ≥ 0 (n,) and visits v (n,) → weights (n,), float64, > 0. `power` and `rotation` look at each
sequence alone; `rank` and `boltzmann` compare it with all others, for which they are fitted from time
to time.
"""

from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from qdreamer.configs.registry import Registry

Floats = NDArray[np.float64]
LEAST, MOST = 1e-12, 1e12  # of a weight: sums stay finite, and nothing that may be drawn has weight 0


class Seen(NamedTuple):
    """What was found so far."""

    updates: int  # calls of `update`
    largest: float  # error, lately
    visits: int  # of the sequence that was drawn most often


class Transform(Protocol):
    """A transform without memory, but for what its class overrides."""

    fitted: bool = False  # whether it needs `fit`

    @classmethod
    def make(cls, config: Any) -> Self:
        """From the settings of prioritized replay."""
        ...

    def fit(self, errors: Floats) -> None:
        """Take in all errors in the buffer, (N,), N ≥ 1."""

    def __call__(self, errors: Floats, visits: NDArray[Any], seen: Seen) -> Floats: ...

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""


TRANSFORMS: Registry[type[Transform]] = Registry("transforms", "qdreamer.agents.replay")

"""How a batch is chosen among more candidates than it has room for, all drawn by the replay's sampler."""

import json
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from qdreamer.configs.registry import Registry


class Selection(Protocol):
    """Chooses among M candidates, by the latents that their last visit left in replay."""

    @classmethod
    def make(cls, config: Any, seed: int) -> Self:
        """Make it of the settings of `replay`."""
        ...

    def candidates(self, count: int) -> int:
        """How many candidates a batch of `count` is chosen from."""
        ...

    def select(
        self, stoch: NDArray[np.uint8], known: NDArray[np.bool_], weights: NDArray[np.float32], count: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return which candidates are taken (count,), and the factors of their importance weights (count,).

        `stoch` (M, T, S) holds the classes of the S latent variables in each of T steps; `known` (M,) is
        false for candidates that nobody has seen yet, whose classes mean nothing; `weights` (M,) are their
        importance weights. For any numbers x of the candidates, the mean of factor·x over those that are
        taken has as its expectation the mean of x over all that can be taken.
        """
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class RandomSelection(Selection):
    """A selection that draws, with a generator of its own.

    Args:
        times: candidates for each place in the batch. seed: of the generator.
    """

    def __init__(self, times: int, seed: int) -> None:
        self._times = times
        self._random = np.random.default_rng(np.random.SeedSequence([5, seed]))

    def candidates(self, count: int) -> int:
        return self._times * count

    def state_dict(self) -> dict[str, Any]:
        return {"random": json.dumps(self._random.bit_generator.state)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._random.bit_generator.state = json.loads(state["random"])


SELECTIONS: Registry[type[Selection]] = Registry("selections", "qdreamer.agents.replay.diversity")
"""What `replay.diverse` names."""


@SELECTIONS.register("none")
class Everything(Selection):
    """As many candidates as are wanted, and all of them."""

    @classmethod
    def make(cls, config: Any, seed: int) -> Self:
        return cls()

    def candidates(self, count: int) -> int:
        return count

    def select(
        self, stoch: NDArray[np.uint8], known: NDArray[np.bool_], weights: NDArray[np.float32], count: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        return np.arange(count), np.ones(count)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass

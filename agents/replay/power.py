"""Proportional prioritization."""

from typing import Any, Self

from numpy.typing import NDArray

from qdreamer.agents.replay.transforms import TRANSFORMS, Floats, Seen, Transform


@TRANSFORMS.register("power")
class Power(Transform):
    """(e + offset)^α: proportional prioritization (Schaul et al. 2016, sec. 3.3)."""

    def __init__(self, alpha: float, offset: float) -> None:
        self._alpha, self._offset = alpha, offset

    @classmethod
    def make(cls, config: Any) -> Self:
        return cls(config.alpha, config.offset)

    def __call__(self, errors: Floats, visits: NDArray[Any], seen: Seen) -> Floats:
        return (errors + self._offset) ** self._alpha

"""Prioritization by a Boltzmann distribution of errors."""

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from qdreamer.agents.replay.transforms import TRANSFORMS, Floats, Seen, Transform


@TRANSFORMS.register("boltzmann")
class Boltzmann(Transform):
    """exp((e − mean)/(temperature · deviation)): a Boltzmann distribution over standardised errors.

    Mean and deviation are those of the last fit; exponents are cut at ±20.
    """

    fitted = True

    def __init__(self, temperature: float) -> None:
        self._temperature = temperature
        self._mean, self._deviation = 0.0, 1.0

    @classmethod
    def make(cls, config: Any) -> Self:
        return cls(config.temperature)

    def fit(self, errors: Floats) -> None:
        self._mean = float(errors.mean())
        self._deviation = float(errors.std()) or 1.0

    def __call__(self, errors: Floats, visits: NDArray[Any], seen: Seen) -> Floats:
        exponent = (errors - self._mean) / (self._temperature * self._deviation)
        return np.exp(np.clip(exponent, -20.0, 20.0))

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self._mean, "deviation": self._deviation}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._mean, self._deviation = state["mean"], state["deviation"]

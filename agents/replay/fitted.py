"""Transforms that compare an error with all others in the buffer, to which they are fitted."""

from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from qdreamer.agents.replay.transforms import TRANSFORMS, Floats, Seen, Transform

QUANTILES = 65_536  # errors kept to rank others by; exact for buffers up to this size


@TRANSFORMS.register("rank")
class Rank(Transform):
    """(1/rank(e))^α: rank-based prioritization (Schaul et al. 2016, sec. 3.3). Ties share a rank.

    Ranks are those among the errors of the last fit, or, when there were more than QUANTILES, among
    that many of their quantiles.
    """

    fitted = True

    def __init__(self, alpha: float) -> None:
        self._alpha = alpha
        self._sorted: Floats = np.zeros(1)
        self._scale = 1.0  # errors of the fit per one kept

    @classmethod
    def make(cls, config: Any) -> Self:
        return cls(config.alpha)

    def fit(self, errors: Floats) -> None:
        kept = np.sort(errors)
        self._scale = max(1.0, len(kept) / QUANTILES)
        if self._scale > 1.0:
            kept = kept[np.linspace(0, len(kept) - 1, QUANTILES).round().astype(np.int64)]
        self._sorted = kept

    def __call__(self, errors: Floats, visits: NDArray[Any], seen: Seen) -> Floats:
        larger = len(self._sorted) - self._sorted.searchsorted(errors, side="right")
        return np.asarray((1.0 + larger * self._scale) ** -self._alpha, np.float64)

    def state_dict(self) -> dict[str, Any]:
        return {"sorted": torch.from_numpy(self._sorted), "scale": self._scale}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._sorted, self._scale = state["sorted"].numpy().copy(), state["scale"]


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

"""From what the learner measured on a sequence to the weight that it is drawn with.

Errors e ≥ 0 (n,) and visits v (n,) → weights (n,), float64, > 0. `Power` and `Rotation` look at each
sequence alone; `Rank` and `Boltzmann` compare it with all others, for which they are fitted from time
to time.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float64]
QUANTILES = 65_536  # errors kept to rank others by; exact for buffers up to this size
LEAST, MOST = 1e-12, 1e12  # of a weight: sums stay finite, and nothing that may be drawn has weight 0


class Seen(NamedTuple):
    """What was found so far."""

    updates: int  # calls of `update`
    largest: float  # error, lately
    visits: int  # of the sequence that was drawn most often


class Transform(Protocol):
    fitted: bool  # whether `fit` is needed

    def fit(self, errors: Floats) -> None:
        """All errors in the buffer, (N,), N ≥ 1."""
        ...

    def __call__(self, errors: Floats, visits: NDArray[Any], seen: Seen) -> Floats: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class _Pointwise:
    """A transform without memory."""

    fitted = False

    def fit(self, errors: Floats) -> None:
        """Nothing to fit."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


class Power(_Pointwise):
    """(e + offset)^α: proportional prioritization (Schaul et al. 2016, sec. 3.3)."""

    def __init__(self, alpha: float, offset: float) -> None:
        self._alpha, self._offset = alpha, offset

    def __call__(self, errors: Floats, visits: NDArray[Any], seen: Seen) -> Floats:
        return (errors + self._offset) ** self._alpha


class Rank:
    """(1/rank(e))^α: rank-based prioritization (Schaul et al. 2016, sec. 3.3). Ties share a rank.

    Ranks are those among the errors of the last fit, or, when there were more than QUANTILES, among
    that many of their quantiles.
    """

    fitted = True

    def __init__(self, alpha: float) -> None:
        self._alpha = alpha
        self._sorted: Floats = np.zeros(1)
        self._scale = 1.0  # errors of the fit per one kept

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


class Boltzmann:
    """exp((e − mean)/(temperature · deviation)): a Boltzmann distribution over standardised errors.

    Mean and deviation are those of the last fit; exponents are cut at ±20.
    """

    fitted = True

    def __init__(self, temperature: float) -> None:
        self._temperature = temperature
        self._mean, self._deviation = 0.0, 1.0

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


class Rotation(_Pointwise):
    """Quantum-inspired replay after Wei et al. (2021): every sequence is a qubit, its weight P(1).

    The qubit starts at equal amplitudes, cos θ|0⟩ + sin θ|1⟩ with θ = π/4. Preparation rotates it by
    m steps of σ, depreciation back by ω for every visit v:

        σ = ζ₁/(1 + e^{ζ₂/u}),   m = ⌊μ·e/e_max − (π/4)/σ⌋,   ω = τ₁/(v_max·(1 + e^{τ₂/u}))
        weight = sin²(π/4 + mσ − vω) + offset

    with u updates instead of the paper's training episodes. Here the angle is kept within [0, π/2],
    so that a larger error never weighs less; `prepare` is (ζ₁, ζ₂), `depreciate` (τ₁, τ₂).
    """

    STEPS = 100.0  # μ

    def __init__(self, prepare: tuple[float, float], depreciate: tuple[float, float], offset: float) -> None:
        self._prepare, self._depreciate, self._offset = prepare, depreciate, offset

    def __call__(self, errors: Floats, visits: NDArray[Any], seen: Seen) -> Floats:
        sigma = _grown(*self._prepare, seen.updates)
        omega = _grown(*self._depreciate, seen.updates) / max(seen.visits, 1)
        share = np.minimum(errors / (seen.largest or 1.0), 1.0)
        steps = np.floor(self.STEPS * share - math.pi / 4 / sigma)
        angle = np.clip(math.pi / 4 + steps * sigma - visits * omega, 0.0, math.pi / 2)
        return np.sin(angle) ** 2 + self._offset


def _grown(limit: float, delay: float, updates: int) -> float:
    """limit/(1 + e^{delay/updates}): from 0 to limit/2 as updates go on."""
    return limit / (1.0 + math.exp(min(delay / max(updates, 1), 50.0)))


TRANSFORMS: dict[str, Callable[[Any], Transform]] = {  # made of prioritized replay's settings
    "power": lambda config: Power(config.alpha, config.offset),
    "rank": lambda config: Rank(config.alpha),
    "boltzmann": lambda config: Boltzmann(config.temperature),
    "rotation": lambda config: Rotation(config.prepare, config.depreciate, config.offset),
}

"""Quantum-inspired prioritization: weights of qubits that are rotated."""

import math
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from qdreamer.agents.replay.transforms import TRANSFORMS, Floats, Seen, Transform


@TRANSFORMS.register("rotation")
class Rotation(Transform):
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

    @classmethod
    def make(cls, config: Any) -> Self:
        return cls(config.prepare, config.depreciate, config.offset)

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

"""Stratified bootstrap: runs are drawn again within each task and each agent, never across them.

Percentile intervals (Efron 1979), as in Agarwal et al. 2021. All resamples of an agent are one array,
so a statistic is computed for all of them at once.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qdreamer.analysis.interquartile import Floats, iqm

Statistic = Callable[[Floats], Floats]  # (…, R, M) → (…)
Contrast = Callable[[Floats, Floats], Floats]  # (…, R, M) and (…, R', M) → (…)

RESAMPLES = 10_000
LEVEL = 0.95
_BLOCK = 2**22  # numbers that are resampled at a time: memory stays small


@dataclass(frozen=True)
class Interval:
    """A point estimate between the ends of its interval."""

    point: float
    low: float
    high: float
    level: float = LEVEL

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


def draw(runs: int, tasks: int, resamples: int, random: np.random.Generator) -> NDArray[np.intp]:
    """Return indices of runs (resamples, R, M), drawn for each task on its own."""
    return random.integers(runs, size=(resamples, runs, tasks), dtype=np.intp)


def resampled(scores: Floats, index: NDArray[np.intp]) -> Floats:
    """Return scores (R, M) at the runs `index` (…, R, M): (…, R, M)."""
    return scores[index, np.arange(scores.shape[1])]


def replicates(
    statistic: Statistic, scores: Floats, random: np.random.Generator, resamples: int = RESAMPLES
) -> Floats:
    """Return the statistic of each resample of scores (R, M): (resamples,)."""
    runs, tasks = scores.shape
    parts = _parts(resamples, scores.size)
    return np.concatenate([statistic(resampled(scores, draw(runs, tasks, n, random))) for n in parts])


def contrast_replicates(
    contrast: Contrast, x: Floats, y: Floats, random: np.random.Generator, resamples: int = RESAMPLES
) -> Floats:
    """Return the contrast of resamples of two independent groups (R, M) and (R', M): (resamples,)."""
    parts = _parts(resamples, x.size + y.size)
    return np.concatenate(
        [
            contrast(
                resampled(x, draw(len(x), x.shape[1], n, random)),
                resampled(y, draw(len(y), y.shape[1], n, random)),
            )
            for n in parts
        ]
    )


def _parts(resamples: int, size: int) -> list[int]:
    block = max(1, _BLOCK // max(size, 1))
    return [min(block, resamples - start) for start in range(0, resamples, block)]


def bounds(samples: Floats, level: float = LEVEL) -> tuple[Floats, Floats]:
    """Return the (1 ± level)/2 quantiles of the replicates, (resamples, …) → two of (…)."""
    low, high = np.quantile(samples, [(1.0 - level) / 2.0, (1.0 + level) / 2.0], axis=0)
    return low, high


def percentile(point: float, samples: Floats, level: float = LEVEL) -> Interval:
    """Return the interval between the (1 ± level)/2 quantiles of the replicates."""
    low, high = bounds(samples, level)
    return Interval(float(point), float(low), float(high), level)


def interval(
    statistic: Statistic,
    scores: Floats,
    random: np.random.Generator,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Interval:
    """Return the point estimate of scores (R, M) and its interval."""
    samples = replicates(statistic, scores, random, resamples)
    return percentile(float(statistic(scores)), samples, level)


def p_value(samples: Floats) -> float:
    """Return the two-sided p of 'no difference': 1 − the level at which the interval begins to hold 0.

    One is added to both counts, so that no p is exactly 0 (Davison & Hinkley 1997, 4.2).
    """
    n = len(samples)
    below, above = (samples <= 0.0).sum(), (samples >= 0.0).sum()
    return float(min(1.0, 2.0 * (min(below, above) + 1) / (n + 1)))


def curve_band(
    curves: Floats, random: np.random.Generator, resamples: int = 2_000, level: float = LEVEL
) -> tuple[Floats, Floats, Floats]:
    """Return the IQM of R curves (R, T) at each point, and the ends of its interval: three of (T,).

    A resample draws whole curves, and the interval is that of each point on its own.
    """
    runs, points = curves.shape
    samples = np.concatenate(
        [
            iqm(curves[random.integers(runs, size=(n, runs))], axis=1)  # (n, R, T) → (n, T)
            for n in _parts(resamples, runs * points)
        ]
    )
    return iqm(curves, axis=0), *bounds(samples, level)

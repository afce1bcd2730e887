"""Stratified bootstrap: runs are drawn again within each task and each agent, never across them.

Percentile intervals (Efron 1979), as in Agarwal et al. 2021. All resamples of an agent are one array,
so a statistic is computed for all of them at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from qdreamer.analysis.aggregates import Floats, iqm

Statistic = Callable[..., Floats]  # of one or two agents' scores: (…, R, M), (…, R', M) → (…)

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


def resampled(scores: Floats, random: np.random.Generator, resamples: int) -> Floats:
    """Return scores (R, M) with the runs of each task drawn again on their own: (resamples, R, M)."""
    index = random.integers(len(scores), size=(resamples, *scores.shape))
    return scores[index, np.arange(scores.shape[1])]


def replicates(
    statistic: Statistic, agents: Sequence[Floats], random: np.random.Generator, resamples: int = RESAMPLES
) -> Floats:
    """Return the statistic of each resample of independent agents' scores (R, M), …: (resamples, …)."""
    blocks = _blocks(resamples, sum(scores.size for scores in agents))
    return np.concatenate([statistic(*(resampled(x, random, n) for x in agents)) for n in blocks])


def _blocks(resamples: int, size: int) -> list[int]:
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
    statistic: Statistic, agents: Sequence[Floats], random: np.random.Generator, resamples: int = RESAMPLES
) -> Interval:
    """Return the point estimate of the agents' scores (R, M), … and its 95 % interval."""
    return percentile(float(statistic(*agents)), replicates(statistic, agents, random, resamples))


def p_value(samples: Floats) -> float:
    """Return the two-sided p of 'no difference': 1 − the level at which the interval begins to hold 0.

    One is added to both counts, so that no p is exactly 0 (Davison & Hinkley 1997, 4.2).
    """
    n = len(samples)
    below, above = (samples <= 0.0).sum(), (samples >= 0.0).sum()
    return float(min(1.0, 2.0 * (min(below, above) + 1) / (n + 1)))


def curve_band(
    curves: Floats, random: np.random.Generator, resamples: int = 2_000
) -> tuple[Floats, Floats, Floats]:
    """Return the IQM of R curves (R, T) at each point, and the ends of its 95 % interval: three of (T,).

    A resample draws whole curves, and the interval is that of each point on its own.
    """
    runs = len(curves)
    samples = np.concatenate(
        [
            iqm(curves[random.integers(runs, size=(n, runs))], axis=1)  # (n, R, T) → (n, T)
            for n in _blocks(resamples, curves.size)
        ]
    )
    return iqm(curves, axis=0), *bounds(samples)

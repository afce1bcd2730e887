"""Performance profiles: the share of runs above each score (Dolan & Moré 2002; Agarwal et al. 2021)."""

import numpy as np

from qdreamer.analysis.bootstrap import LEVEL, RESAMPLES, bounds, draw, resampled
from qdreamer.analysis.interquartile import Floats


def profile(scores: Floats, levels: Floats) -> Floats:
    """Return the share of runs and tasks with a score above each level: (…, R, M), (K,) → (…, K).

    Tasks count alike: the mean over tasks of the share of runs.
    """
    runs, tasks = scores.shape[-2:]
    flat = np.sort(scores.reshape(-1, runs * tasks), axis=-1)
    shares = [1.0 - np.searchsorted(row, levels, side="right") / (runs * tasks) for row in flat]
    return np.stack(shares).reshape(*scores.shape[:-2], len(levels))


def profile_band(
    scores: Floats,
    levels: Floats,
    random: np.random.Generator,
    resamples: int = RESAMPLES // 5,
    level: float = LEVEL,
) -> tuple[Floats, Floats, Floats]:
    """Return the profile of scores (R, M) and the ends of its pointwise interval: three of (K,)."""
    runs, tasks = scores.shape
    samples = profile(resampled(scores, draw(runs, tasks, resamples, random)), levels)  # (resamples, K)
    return profile(scores, levels), *bounds(samples, level)

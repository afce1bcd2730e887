"""What many runs come to (Agarwal et al. 2021, "Deep RL at the edge of the statistical precipice")."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def iqm(scores: Floats, axis: int = -1) -> Floats:
    """Return the interquartile mean: that of what remains of the n scores along `axis` when ⌊n/4⌋ are cut
    off at either end.

    With less than four scores this is their mean. Raises ValueError for no scores.
    """
    n = scores.shape[axis]
    if n == 0:
        raise ValueError("the interquartile mean needs at least one score")
    cut = n // 4
    if cut == 0:
        return scores.mean(axis)
    return np.sort(scores, axis=axis).take(range(cut, n - cut), axis).mean(axis)


def iqm_of_tasks(scores: Floats) -> Floats:
    """Return the IQM over all runs and tasks together, (…, R, M) → (…)."""
    return iqm(scores.reshape(*scores.shape[:-2], -1))


def probability_of_improvement(x: Floats, y: Floats) -> Floats:
    """Return P(X > Y) + ½·P(X = Y), the mean over tasks: (…, R, M) and (…, R', M) → (…).

    It is the Mann–Whitney U divided by the number of pairs. Infinite scores (a goal that was never
    reached) compare as they should.
    """
    left, right = x[..., :, None, :], y[..., None, :, :]  # (…, R, R', M)
    wins = (left > right).mean((-3, -2)) + 0.5 * (left == right).mean((-3, -2))  # (…, M)
    return np.asarray(wins.mean(-1))


def profile(scores: Floats, levels: Floats) -> Floats:
    """Return the performance profile (Dolan & Moré 2002), (…, R, M) and (K,) → (…, K).

    It is the share of runs and tasks with a score above each level; tasks count alike.
    """
    flat = np.sort(scores.reshape(-1, scores.shape[-2] * scores.shape[-1]), axis=-1)
    shares = [1.0 - np.searchsorted(row, levels, side="right") / flat.shape[1] for row in flat]
    return np.stack(shares).reshape(*scores.shape[:-2], len(levels))

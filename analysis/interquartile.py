"""The interquartile mean (Agarwal et al. 2021, "Deep RL at the edge of the statistical precipice")."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def iqm(scores: Floats, axis: int = -1) -> Floats:
    """Return the mean of what remains when ⌊n/4⌋ of the n scores along `axis` are cut off at either end.

    With less than four scores this is their mean. Raises ValueError for no scores.
    """
    n = scores.shape[axis]
    if n == 0:
        raise ValueError("the interquartile mean needs at least one score")
    cut = n // 4
    if cut == 0:
        return scores.mean(axis)
    ordered = np.sort(scores, axis=axis)
    return ordered.take(range(cut, n - cut), axis).mean(axis)


def iqm_of_tasks(scores: Floats) -> Floats:
    """Return the IQM over all runs and tasks together, (…, R, M) → (…)."""
    return iqm(scores.reshape(*scores.shape[:-2], -1))

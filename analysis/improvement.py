"""Probability of improvement: how often a run of X does better than one of Y (Agarwal et al. 2021)."""

import numpy as np

from qdreamer.analysis.interquartile import Floats


def probability_of_improvement(x: Floats, y: Floats) -> Floats:
    """Return P(X > Y) + ½·P(X = Y), the mean over tasks: (…, R, M) and (…, R', M) → (…).

    It is the Mann–Whitney U divided by the number of pairs. Infinite scores (a goal that was never
    reached) compare as they should.
    """
    left, right = x[..., :, None, :], y[..., None, :, :]  # (…, R, R', M)
    wins = (left > right).mean((-3, -2)) + 0.5 * (left == right).mean((-3, -2))  # (…, M)
    return np.asarray(wins.mean(-1))

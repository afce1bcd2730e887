"""Holm's correction (1979): among m comparisons, the chance of any false claim stays at α."""

import numpy as np

from qdreamer.analysis.aggregates import Floats


def levels(p_values: Floats, alpha: float = 0.05) -> Floats:
    """Return the α that each of m comparisons must hold, (m,) → (m,).

    The smallest p is held against α/m, the next against α/(m − 1), and so on; from the first that
    fails, the others are held against the same α, so that they fail with it. A comparison is claimed
    exactly if its p is at most its α, that is, if its interval of level 1 − α leaves 0 out.
    """
    m = len(p_values)
    order = np.argsort(p_values, kind="stable")
    out, failed = np.empty(m), None
    for rank, i in enumerate(order):
        own = alpha / (m - rank)
        if failed is None and p_values[i] > own:
            failed = own
        out[i] = own if failed is None else failed
    return out

"""Learning curves as numbers: a common grid, the area under them, the way to a threshold."""

import numpy as np

from qdreamer.analysis.aggregates import Floats


def on_grid(positions: Floats, values: Floats, grid: Floats) -> Floats:
    """Return the last value at or before each point of the grid, (T,) → (G,); NaN before the first.

    An agent that is trained no longer keeps its last value.
    """
    index = np.searchsorted(positions, grid, side="right") - 1
    return np.where(index >= 0, values[index.clip(0)], np.nan)


def area(steps: Floats, returns: Floats) -> float:
    """Return the mean height of the curve between its first and last evaluation (trapezoids).

    In units of the return, so that it does not depend on the length of the run.
    """
    if len(steps) == 1:
        return float(returns[0])
    return float(np.trapezoid(returns, steps) / (steps[-1] - steps[0]))


def reached(positions: Floats, returns: Floats, threshold: float, budget: float) -> float:
    """Return the first position (in steps or seconds) whose return is at least the threshold.

    A run that never came there is censored at its budget.
    """
    over = np.flatnonzero(returns >= threshold)
    return float(positions[over[0]] if len(over) else budget)

"""Learning curves as numbers: a common grid, the area under them, the way to a threshold."""

from dataclasses import dataclass

import numpy as np

from qdreamer.analysis.interquartile import Floats


@dataclass(frozen=True)
class Reached:
    """When a run first came to the threshold. A run that never did is censored at its budget."""

    at: float  # of its first evaluation at or over the threshold; else the budget
    censored: bool


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


def reached(positions: Floats, returns: Floats, threshold: float, budget: float) -> Reached:
    """Return the first position (in steps or seconds) whose return is at least the threshold."""
    over = np.flatnonzero(returns >= threshold)
    if len(over):
        return Reached(float(positions[over[0]]), False)
    return Reached(float(budget), True)

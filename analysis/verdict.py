"""From intervals to words. The rules are fixed before any run is looked at.

* Fewer than 5 seeds of either agent: inconclusive, whatever the figures say.
* "better" and "worse": at least 10 seeds of each, and the interval of the difference leaves out 0.
* "no difference shown": at least 5 seeds, and the whole interval lies within ± a stated margin.
* All else is inconclusive. So is a metric that stands at its ceiling, or floor, in every run.

The difference is that of the interquartile means, turned so that more is better.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from qdreamer.analysis.aggregates import Floats, iqm_of_tasks
from qdreamer.analysis.bootstrap import LEVEL, RESAMPLES, Interval, p_value, percentile, replicates
from qdreamer.analysis.holm import levels

MIN_SEEDS = 5  # for any verdict but "inconclusive"
MIN_SEEDS_DIFFERENCE = 10  # for "better" and "worse"

Word = Literal["better", "worse", "no difference shown", "inconclusive"]


@dataclass(frozen=True, eq=False)
class Difference:
    """Two agents' scores (R, 1) and (R', 1), more is better, with the bootstrap of their difference."""

    seeds: int  # of the agent that has fewer
    point: float
    samples: Floats  # (resamples,)
    constant: bool  # all runs of both agents have the same score

    @property
    def p(self) -> float:
        return 1.0 if self.constant else p_value(self.samples)

    def interval(self, level: float = LEVEL) -> Interval:
        return percentile(self.point, self.samples, level)


@dataclass(frozen=True)
class Verdict:
    """A word, the interval that it was read from, and the reason in words."""

    word: Word
    interval: Interval
    reason: str


def iqm_difference(x: Floats, y: Floats) -> Floats:
    """Return the IQM of X less that of Y."""
    return iqm_of_tasks(x) - iqm_of_tasks(y)


def difference(x: Floats, y: Floats, random: np.random.Generator, resamples: int = RESAMPLES) -> Difference:
    """Hold the scores X (R,) against Y (R',). Raises ValueError for scores that are not finite."""
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("a score is not finite")
    a, b = x[:, None], y[:, None]
    samples = replicates(iqm_difference, [a, b], random, resamples)
    constant = len(np.unique(np.concatenate([x, y]))) == 1
    return Difference(min(len(x), len(y)), float(iqm_difference(a, b)), samples, constant)


def decide(difference: Difference, margin: float | None, level: float = LEVEL) -> Verdict:
    """Return the verdict on the first agent of a difference.

    Args:
        margin: what counts as no difference, in units of the score; None: nothing does.
        level: of the interval; 1 − α of Holm's correction where there are several comparisons.
    """
    found = difference.interval(level)
    n = difference.seeds
    if n < MIN_SEEDS:
        return Verdict("inconclusive", found, f"{n} seeds, and a verdict needs at least {MIN_SEEDS}")
    if difference.constant:
        return Verdict("inconclusive", found, "every run of both has the same score")
    if 0.0 not in found:
        word: Word = "better" if found.low > 0.0 else "worse"
        if n < MIN_SEEDS_DIFFERENCE:
            reason = f"it points to {word}, but that takes {MIN_SEEDS_DIFFERENCE} seeds, and there are {n}"
            return Verdict("inconclusive", found, reason)
        small = margin is not None and max(-found.low, found.high) <= margin
        return Verdict(word, found, "the interval leaves out 0" + (", but lies within the margin" * small))
    if margin is None:
        return Verdict("inconclusive", found, "the interval holds 0, and no margin was stated")
    if max(-found.low, found.high) <= margin:
        return Verdict("no difference shown", found, "the interval lies within the margin")
    return Verdict("inconclusive", found, "the interval holds 0 and reaches beyond the margin")


def decide_all(
    differences: list[Difference], margin: float | None, alpha: float = 1.0 - LEVEL
) -> list[Verdict]:
    """Return the verdicts on a family: each interval has the level that Holm's correction asks for."""
    if not differences:
        return []
    alphas = levels(np.array([d.p for d in differences]), alpha)
    return [decide(d, margin, 1.0 - a) for d, a in zip(differences, alphas, strict=True)]

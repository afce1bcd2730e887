"""What runs are judged by: one primary metric, fixed by the environment, and others beside it.

primary: steps to the threshold where the environment has one (`env.solved`), else the area under the
learning curve. A run that never reaches the threshold counts as its budget, which is less than it
would have needed: failures are kept, and what they cost is understated, never overstated.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qdreamer.analysis.aggregates import Floats
from qdreamer.analysis.learning_curves import area, reached
from qdreamer.analysis.run_form import CompareError
from qdreamer.analysis.run_record import RunRecord

MARGIN_SHARE = 0.1  # of the budget: less than that is no difference in steps to the threshold


@dataclass(frozen=True)
class Metric:
    """A number for each run. `sign` is 1 where more is better, −1 where less is."""

    name: str  # on the command line
    title: str
    unit: str
    sign: int
    score: Callable[[RunRecord, float], float]  # (run, threshold)
    needs_threshold: bool = False

    def applies(self, threshold: float | None) -> bool:
        """Tell whether the metric can be computed with this threshold, or none."""
        return threshold is not None or not self.needs_threshold

    def scores(self, runs: Sequence[RunRecord], threshold: float | None) -> Floats:
        """Return the runs' scores (R,), in the metric's unit."""
        return np.array([self.score(run, np.nan if threshold is None else threshold) for run in runs])

    def show(self, value: float) -> str:
        """Return a value for a table, without its unit."""
        if self.name == "steps":
            return f"{value:,.0f}"
        return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


METRICS = {
    metric.name: metric
    for metric in (
        Metric(
            "steps", "steps to threshold", "environment steps", -1,
            lambda run, goal: reached(run.steps, run.returns, goal, run.budget), True,
        ),
        Metric(
            "minutes", "minutes to threshold", "minutes", -1,
            lambda run, goal: reached(run.seconds, run.returns, goal, run.seconds[-1]) / 60.0, True,
        ),
        Metric(
            "area", "area under the curve", "mean return over the run", 1,
            lambda run, goal: area(run.steps, run.returns),
        ),
        Metric(
            "final", "final return", "mean of the last three evaluations", 1,
            lambda run, goal: run.final,
        ),
    )
}  # fmt: skip


def primary(name: str | None, threshold: float | None) -> Metric:
    """Return the metric that decides; `name` overrules the environment's. Raises CompareError."""
    metric = METRICS[name or ("area" if threshold is None else "steps")]
    if not metric.applies(threshold):
        raise CompareError(f"--primary {metric.name} needs --threshold: this environment has none")
    return metric


def failed(runs: Sequence[RunRecord], threshold: float) -> NDArray[np.bool_]:
    """Return which of the runs never reached the threshold, (R,)."""
    return np.array([run.returns.max() < threshold for run in runs])


def margin(metric: Metric, stated: float | None, runs: Sequence[RunRecord]) -> float | None:
    """Return the margin of no difference: as stated, else a tenth of the budget in steps, else None."""
    if stated is not None:
        return stated
    return MARGIN_SHARE * runs[0].budget if metric.name == "steps" else None


def ceiling(runs: Sequence[RunRecord]) -> str | None:
    """Return a sentence if half of the runs or more end at the best return that any evaluation saw."""
    best = max(float(run.returns.max()) for run in runs)
    at = sum(run.final >= best for run in runs)
    if 2 * at < len(runs):
        return None
    return (
        f"{at} of {len(runs)} runs end at {best:g}, the best return that any evaluation saw: final returns "
        "stand at a ceiling and cannot tell agents apart"
    )

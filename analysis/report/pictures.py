"""The report's pictures: learning curves, profiles, time to the threshold, ablations.

Colours are Okabe & Ito's, which colour-blind readers tell apart; lines carry their names.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from qdreamer.analysis.aggregates import Floats, profile
from qdreamer.analysis.bootstrap import RESAMPLES, bounds, replicates
from qdreamer.analysis.comparison import Agent, Band, ComparisonResult, Report
from qdreamer.analysis.metric import METRICS, failed
from qdreamer.analysis.names import within

BASELINE, CANDIDATE = "#404040", "#D55E00"
OTHERS = ("#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#B8860B")
SHOWN = 2 + len(OTHERS)  # agents in one row of curves: more cannot be told apart
BANDS = 3  # agents whose intervals may lie on each other; with more, those of baseline and candidate
_VERDICT = {
    "better": "#009E73",
    "worse": "#D55E00",
    "no difference shown": "#0072B2",
    "inconclusive": "#7f7f7f",
}
_STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8,
    "axes.edgecolor": "#808080",
    "axes.axisbelow": True,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "figure.dpi": 110,
    "savefig.facecolor": "white",
}


def draw(report: Report, folder: Path) -> dict[str, Path]:
    """Draw all pictures as PNG files in `folder`; return their paths by name."""
    makers = {"curves": curves, "profiles": profiles, "comparisons": forest}
    out = {}
    with plt.rc_context(_STYLE):
        for name, make in makers.items():
            figure = make(report)
            if figure is not None:
                out[name] = folder / f"{name}.png"
                figure.savefig(out[name])
                plt.close(figure)
    return out


@dataclass(frozen=True, eq=False)
class _Line:
    """How an agent is drawn, the same in every picture; baseline and candidate in every row."""

    agent: Agent
    colour: str
    wide: bool  # with its interval


def _rows(report: Report) -> list[list[_Line]]:
    """Return the agents of each row: baseline, candidate, and as many others as there are colours."""
    fixed = {report.baseline: BASELINE, report.candidate: CANDIDATE}
    first = [_Line(agent, fixed[agent.name], True) for agent in report.agents if agent.name in fixed]
    wide = len(report.agents) <= BANDS
    others = [agent for agent in report.agents if agent.name not in fixed]
    each = len(OTHERS)
    return [
        [*first, *(_Line(*pair, wide) for pair in zip(others[i : i + each], OTHERS, strict=False))]
        for i in range(0, max(len(others), 1), each)
    ]


def curves(report: Report) -> Figure:
    """Draw learning curves against environment steps and against minutes."""
    rows = _rows(report)
    figure, axes = plt.subplots(
        len(rows), 2, figsize=(11, 4.2 * len(rows)), sharey=True, squeeze=False, layout="constrained"
    )
    for lines, (left, right) in zip(rows, axes, strict=True):
        for line in lines:
            _band(left, line, line.agent.by_step, 1.0)
            _band(right, line, line.agent.by_second, 1.0 / 60.0)
        bands = [line.agent.by_second for line in lines]
        end = max(band.at[-1] for band in bands) / 60.0
        left.set(xlabel="environment steps", ylabel="return on unseen episodes", xlim=(0, None))
        right.set(xlabel="minutes of wall-clock", xlim=(0, end))
        for axis in (left, right):
            if report.threshold is not None:
                axis.axhline(report.threshold, color="#808080", linestyle=(0, (4, 3)), linewidth=1)
                axis.annotate(
                    f"threshold {report.threshold:g}", (0, report.threshold), xytext=(4, 3),
                    textcoords="offset points", fontsize=8, color="#606060",
                )  # fmt: skip
        _label_ends(right, lines, end, [band.mid[-1] for band in bands])
    axes[0][0].set_title(f"{report.env}: interquartile mean over seeds, 95 % interval")
    return figure


def profiles(report: Report) -> Figure:
    """Draw the share of runs that came to the threshold by a step, and that above a final return."""
    rows = _rows(report)
    columns = 1 if report.threshold is None else 2
    figure, axes = plt.subplots(
        len(rows), columns, figsize=(5.5 * columns, 3.9 * len(rows)), squeeze=False, layout="constrained"
    )
    for lines, places in zip(rows, axes, strict=True):
        if report.threshold is not None:
            _reached(places[0], lines, report.threshold)
        _finals(places[-1], lines)
        if report.threshold is None:
            handles = [Line2D([], [], color=line.colour, label=line.agent.name) for line in lines]
            places[-1].legend(handles=handles, frameon=False, fontsize=9)
    return figure


def _reached(axis: Axes, lines: Sequence[_Line], threshold: float) -> None:
    budget = lines[0].agent.runs[0].budget
    at = np.linspace(0.0, budget, 241)
    ends = []
    for line in lines:
        needed = METRICS["steps"].scores(line.agent.runs, threshold)
        # Reached by step t is "more than −t − 1" of the negated steps: a failure never is.
        scores = np.where(failed(line.agent.runs, threshold), -np.inf, -needed)
        ends.append(_profile(axis, line, scores, at, -at - 0.5))
    axis.set(xlabel="environment steps", ylabel="share of seeds", ylim=(-0.03, 1.06), xlim=(0, budget))
    _label_ends(axis, lines, budget, ends)
    axis.set_title(f"Reached {threshold:g} by then")


def _finals(axis: Axes, lines: Sequence[_Line]) -> None:
    finals = [METRICS["final"].scores(line.agent.runs, None) for line in lines]
    low, high = min(map(np.min, finals)), max(map(np.max, finals))
    pad = 0.05 * (high - low) or 1.0
    at = np.linspace(low - pad, high + pad, 241)
    for line, scores in zip(lines, finals, strict=True):
        _profile(axis, line, scores, at, at)
    axis.set(xlabel="final return τ", ylabel="share of seeds above τ", ylim=(-0.03, 1.06))
    axis.set_title("Performance profile of the final return")


def forest(report: Report) -> Figure | None:
    """Draw every comparison's difference with its interval, and the probability of improvement."""
    judged = report.comparisons
    if not judged:
        return None
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 1.5 + 0.46 * len(judged)), sharey=True, width_ratios=(3, 2), layout="constrained"
    )
    places = np.arange(len(judged))[::-1]
    for place, item in zip(places, judged, strict=True):
        interval, chance = item.verdict.interval, item.improvement
        colour = _VERDICT[item.verdict.word]
        left.plot([interval.low, interval.high], [place, place], color=colour, linewidth=2.4)
        left.plot(interval.point, place, "o", color=colour, markersize=6)
        left.annotate(
            item.verdict.word, (interval.high, place), xytext=(7, 0), textcoords="offset points",
            va="center", fontsize=8.5, color=colour,
        )  # fmt: skip
        right.plot([chance.low, chance.high], [place, place], color=colour, linewidth=2.4)
        right.plot(chance.point, place, "o", color=colour, markersize=6)
    left.axvline(0.0, color="#404040", linewidth=1)
    right.axvline(0.5, color="#404040", linewidth=1)
    if report.margin is not None:
        left.axvspan(-report.margin, report.margin, color="#0072B2", alpha=0.07, linewidth=0)
    left.set_yticks(places, [_row(item, report) for item in judged])
    left.margins(x=0.22, y=0.5 / max(len(judged), 2))
    left.set_title(f"Difference in {report.metric.title}")
    right_is = "needs fewer" if report.metric.sign < 0 else "has more"
    left.set_xlabel(f"{report.metric.unit}; right: the first {right_is}")
    right.set_title("Probability of improvement")
    right.set_xlabel("chance that a run of the first does better")
    right.set_xlim(-0.03, 1.03)
    return figure


def _row(item: ComparisonResult, report: Report) -> str:
    pair = item.comparison
    if item is report.main:
        return f"{pair.first}\nagainst {pair.second}"
    other = pair.second if pair.first == report.candidate else pair.first
    return f"{pair.kind}\n({within(other)})"


def _band(axis: Axes, line: _Line, band: Band, scale: float) -> None:
    """Draw an agent's curve, and its interval if it has one."""
    if line.wide:
        axis.fill_between(band.at * scale, band.low, band.high, color=line.colour, alpha=0.18, linewidth=0)
    axis.plot(band.at * scale, band.mid, color=line.colour, linewidth=2.2 if line.wide else 1.3)


def _profile(axis: Axes, line: _Line, scores: Floats, at: Floats, levels: Floats) -> float:
    """Draw the profile of scores (R,), and its interval if it has one; return where it ends."""

    def share(scores: Floats) -> Floats:
        return profile(scores, levels)

    one_task = scores[:, None]
    if line.wide:
        low, high = bounds(replicates(share, [one_task], np.random.default_rng(0), RESAMPLES // 5))
        axis.fill_between(at, low, high, color=line.colour, alpha=0.18, linewidth=0, step="mid")
    mid = share(one_task)
    axis.step(at, mid, color=line.colour, linewidth=2.2 if line.wide else 1.3, where="mid")
    return float(mid[-1])


def _label_ends(axis: Axes, lines: Sequence[_Line], right: float, heights: Sequence[float]) -> None:
    """Write names beside the ends of lines, moved apart where they would lie on each other."""
    low, high = axis.get_ylim()
    gap = 0.062 * (high - low)
    place = np.inf
    for height, line in sorted(zip(heights, lines, strict=True), key=lambda end: -end[0]):
        place = min(height, place - gap)
        axis.annotate(
            within(line.agent.name), (right, place), xytext=(5, 0), textcoords="offset points",
            va="center", fontsize=9, color=line.colour, annotation_clip=False,
        )  # fmt: skip

"""The report's pictures: learning curves, profiles, time to the threshold, ablations.

Colours are Okabe & Ito's, which colour-blind readers tell apart; lines carry their names.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from qdreamer.analysis.comparison import Agent, Band, ComparisonResult, Report
from qdreamer.analysis.interquartile import Floats
from qdreamer.analysis.metric import METRICS
from qdreamer.analysis.profiles import profile_band

BASELINE, CANDIDATE = "#404040", "#D55E00"
OTHERS = ("#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#B8860B")
SHOWN = 2 + len(OTHERS)  # agents in one picture of curves: more cannot be told apart
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


def colours(agents: Sequence[Agent], report: Report) -> dict[str, str]:
    """Return each agent's colour, which it has in every picture."""
    rest = iter(OTHERS)
    fixed = {report.baseline: BASELINE, report.candidate: CANDIDATE}
    return {agent.name: fixed.get(agent.name) or next(rest) for agent in agents}


def curves(report: Report) -> Figure:
    """Draw learning curves against environment steps and against minutes."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True, layout="constrained")
    shown = report.agents[:SHOWN]
    paint, main = colours(shown, report), (report.baseline, report.candidate)
    for axis, scale, bands, label in (
        (axes[0], 1.0, [agent.by_step for agent in shown], "environment steps"),
        (axes[1], 1.0 / 60.0, [agent.by_second for agent in shown], "minutes of wall-clock"),
    ):
        for agent, band in zip(shown, bands, strict=True):
            _band(axis, band, scale, paint[agent.name], len(shown) <= BANDS or agent.name in main)
        axis.set_xlabel(label)
        axis.set_xlim(left=0)
        if report.threshold is not None:
            axis.axhline(report.threshold, color="#808080", linestyle=(0, (4, 3)), linewidth=1)
            axis.annotate(
                f"threshold {report.threshold:g}", (0, report.threshold), xytext=(4, 3),
                textcoords="offset points", fontsize=8, color="#606060",
            )  # fmt: skip
    ends = [(a.name, a.by_second.at[-1] / 60.0, a.by_second.mid[-1]) for a in shown]
    _label_ends(axes[1], ends, paint)
    axes[0].set_ylabel("return on unseen episodes")
    axes[0].set_title(f"{report.env}: interquartile mean over seeds, 95 % interval")
    return figure


def profiles(report: Report) -> Figure:
    """Draw the share of runs that came to the threshold by a step, and that above a final return."""
    shown = report.agents[:SHOWN]
    paint, main = colours(shown, report), (report.baseline, report.candidate)
    columns = 1 if report.threshold is None else 2
    figure, axes = plt.subplots(1, columns, figsize=(5.5 * columns, 3.9), squeeze=False, layout="constrained")
    panels = list(axes[0])
    if report.threshold is not None:
        axis = panels.pop(0)
        budget = shown[0].runs[0].budget
        at = np.linspace(0.0, budget, 241)
        for agent in shown:
            needed = METRICS["steps"].scores(agent.runs, report.threshold)
            failed = np.array([run.returns.max() < report.threshold for run in agent.runs])
            # Reached by step t is "more than −t − 1" of the negated steps: a failure never is.
            wide = len(shown) <= BANDS or agent.name in main
            _profile(axis, np.where(failed, -np.inf, -needed), at, -at - 0.5, paint[agent.name], wide)
        _label_ends(axis, _ends(axis, shown, budget), paint)
        axis.set(xlabel="environment steps", ylabel="share of seeds", ylim=(-0.03, 1.06), xlim=(0, budget))
        axis.set_title(f"Reached {report.threshold:g} by then")
    axis = panels[0]
    finals = [METRICS["final"].scores(agent.runs, None) for agent in shown]
    low, high = min(map(np.min, finals)), max(map(np.max, finals))
    pad = 0.05 * (high - low) or 1.0
    at = np.linspace(low - pad, high + pad, 241)
    for agent, scores in zip(shown, finals, strict=True):
        wide = len(shown) <= BANDS or agent.name in main
        _profile(axis, scores, at, at, paint[agent.name], wide)
    axis.set(xlabel="final return τ", ylabel="share of seeds above τ", ylim=(-0.03, 1.06))
    axis.set_title("Performance profile of the final return")
    if report.threshold is None:
        handles = [Line2D([], [], color=paint[a.name], label=a.name) for a in shown]
        axis.legend(handles=handles, frameon=False, fontsize=9)
    return figure


def forest(report: Report) -> Figure | None:
    """Draw every comparison's difference with its interval, and the probability of improvement."""
    judged = ([report.main] if report.main else []) + report.others
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
    saved = "fewer" if report.metric.sign < 0 else "more"
    left.set_title(f"Difference in {report.metric.title}")
    left.set_xlabel(f"{report.metric.unit}; right: the first needs {saved}" if report.metric.sign < 0
                    else f"{report.metric.unit}; right: the first has {saved}")  # fmt: skip
    right.set_title("Probability of improvement")
    right.set_xlabel("chance that a run of the first does better")
    right.set_xlim(-0.03, 1.03)
    return figure


def _row(item: ComparisonResult, report: Report) -> str:
    pair = item.comparison
    if item is report.main:
        return f"{pair.first}\nagainst {pair.second}"
    other = pair.second if pair.first == report.candidate else pair.first
    return f"{pair.kind}\n({_short(other)})"


def _short(name: str, width: int = 44) -> str:
    return name if len(name) <= width else f"{name[: width - 1]}…"


def _band(axis: Axes, band: Band, scale: float, colour: str, wide: bool) -> None:
    """Draw a curve, and its interval if it is `wide`."""
    if wide:
        axis.fill_between(band.at * scale, band.low, band.high, color=colour, alpha=0.18, linewidth=0)
    axis.plot(band.at * scale, band.mid, color=colour, linewidth=2.2 if wide else 1.3)


def _profile(axis: Axes, scores: Floats, at: Floats, levels: Floats, colour: str, wide: bool) -> None:
    """Draw a profile, and its interval if it is `wide`."""
    order = np.argsort(levels)
    mid, low, high = profile_band(scores[:, None], levels[order], np.random.default_rng(0))
    back = np.argsort(order)
    if wide:
        axis.fill_between(at, low[back], high[back], color=colour, alpha=0.18, linewidth=0, step="mid")
    axis.step(at, mid[back], color=colour, linewidth=2.2 if wide else 1.3, where="mid")


def _ends(axis: Axes, shown: Sequence[Agent], budget: float) -> list[tuple[str, float, float]]:
    """Return where the drawn lines end."""
    return [
        (a.name, budget, float(np.asarray(line.get_ydata())[-1]))
        for a, line in zip(shown, axis.get_lines(), strict=True)
    ]


def _label_ends(axis: Axes, ends: list[tuple[str, float, float]], paint: dict[str, str]) -> None:
    """Write names beside the ends of lines, moved apart where they would lie on each other."""
    low, high = axis.get_ylim()
    gap = 0.062 * (high - low)
    right = max(x for _, x, _ in ends)
    previous = np.inf
    for name, _, y in sorted(ends, key=lambda end: -end[2]):
        place = min(y, previous - gap)
        previous = place
        axis.annotate(
            _short(name, 30), (right, place), xytext=(5, 0), textcoords="offset points", va="center",
            fontsize=9, color=paint[name], annotation_clip=False,
        )  # fmt: skip

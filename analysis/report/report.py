"""The report in words and tables."""

from pathlib import Path

import numpy as np

from qdreamer.analysis.bootstrap import Interval
from qdreamer.analysis.comparison import Agent, ComparisonResult, Report
from qdreamer.analysis.metric import METRICS, Metric
from qdreamer.analysis.report.document import page, table
from qdreamer.analysis.report.pictures import SHOWN
from qdreamer.analysis.verdict import MIN_SEEDS, MIN_SEEDS_DIFFERENCE

_CAPTIONS = {
    "curves": (
        "Learning curves: interquartile mean over seeds with pointwise 95 % stratified-bootstrap intervals, "
        "against environment steps and against wall-clock time. A run that has ended keeps its last value."
    ),
    "profiles": (
        "Share of seeds that came to the threshold by a step (seeds that never did stay below), and share "
        "of seeds whose final return lies above τ, with 95 % intervals."
    ),
    "comparisons": (
        "Differences of interquartile means with the intervals that the verdicts were read from (Holm's "
        "correction widens all but the main one), and the probability that a run of the first agent does "
        "better than one of the second. Shaded: the margin that counts as no difference."
    ),
}


def write(report: Report, pictures: dict[str, Path], folder: Path, command: str) -> list[Path]:
    """Write report.md and report.html into `folder`, where the pictures lie; return their paths."""
    content = document(report, pictures, command)
    text, web = folder / "report.md", folder / "report.html"
    text.write_text(content, encoding="utf-8")
    word = report.main.verdict.word if report.main else ""
    tone = word if word in ("better", "worse") else "neutral"
    web.write_text(page(content, f"{report.env}: comparison of agents", tone, folder), encoding="utf-8")
    return [web, text]


def document(report: Report, pictures: dict[str, Path], command: str) -> str:
    """Return the whole document as Markdown."""
    title = f"{len(report.agents)} agents, baseline {report.baseline}"
    if report.candidate:
        title = f"{report.candidate} against {report.baseline}"
    verdict = "**No single comparison**: see the table of parts and controls."
    if report.main:
        verdict = sentence(report.main, report)
    out = [f"# {report.env}: {title}", f"> {verdict}", rules(report)]
    if report.ceiling:
        out.append(f"**Ceiling.** {report.ceiling}.")
    out += ["## Agents", _agents(report)]
    out += _picture(pictures, "curves", report) + _picture(pictures, "profiles", report)
    out += ["## What it cost", _costs(report), _COST_NOTE]
    if report.others:
        out += ["## Parts and controls", _comparisons(report), _holm_note(report)]
    out += _picture(pictures, "comparisons", report)
    if report.comparisons:
        out += ["## Beside the primary metric", _beside(report), _BESIDE_NOTE]
    out += ["## What was compared", _compared(report), *report.notes]
    out.append(f"Made by `{command}`. What each figure means: docs/comparing.md.")
    return "\n\n".join(out) + "\n"


def sentence(judged: ComparisonResult, report: Report) -> str:
    """Return a verdict with its figures."""
    pair, verdict, metric = judged.comparison, judged.verdict, report.metric
    a, b = (report.agent(name).estimates[metric.name] for name in (pair.first, pair.second))
    words = {
        "better": f"**{pair.first} is better than {pair.second}**",
        "worse": f"**{pair.first} is worse than {pair.second}**",
        "no difference shown": f"**No difference shown** between {pair.first} and {pair.second}",
        "inconclusive": f"**Inconclusive**: {pair.first} against {pair.second}",
    }
    return (
        f"{words[verdict.word]} in {metric.title}: {metric.show(a.point)} against {metric.show(b.point)} "
        f"{metric.unit} (interquartile means over {judged.seeds[0]} and {judged.seeds[1]} seeds); "
        f"difference {change(verdict.interval, metric)}. "
        f"{verdict.reason[0].upper()}{verdict.reason[1:]}. "
        f"A run of {pair.first} does better than one of {pair.second} with probability "
        f"{_percent(judged.improvement)}."
    )


def change(interval: Interval, metric: Metric) -> str:
    """Return the interval of a difference, in the metric's own direction: fewer steps are negative."""
    values = sorted(metric.sign * x for x in (interval.low, interval.high))
    point, low, high = (_signed(x, metric) for x in (metric.sign * interval.point, *values))
    return f"{point} [{low}, {high}]"


def rules(report: Report) -> str:
    """Return what was declared before any run was looked at."""
    metric = report.metric
    who = "chosen on the command line" if report.chosen else "fixed by the environment"
    text = f"Primary metric, {who}: **{metric.title}**"
    if report.threshold is not None and metric.needs_threshold:
        text += (
            f" (first evaluation with a mean return of at least {report.threshold:g}; a seed that never gets "
            "there counts as its whole budget)"
        )
    if report.margin is None:
        text += ". No margin is stated, so “no difference shown” is never said"
    else:
        text += f". Differences within ± {metric.show(report.margin)} {metric.unit} count as none"
    return (
        f"{text}. Fewer than {MIN_SEEDS} seeds are inconclusive; “better” and “worse” take "
        f"{MIN_SEEDS_DIFFERENCE} seeds and an interval of the difference without 0."
    )


def _agents(report: Report) -> str:
    shown = [metric for name, metric in METRICS.items() if name in report.agents[0].estimates]
    header = ["agent", "seeds"] + (["reached"] if report.threshold is not None else [])
    header += [f"{metric.title}{' (primary)' if metric is report.metric else ''}" for metric in shown]
    rows = []
    for agent in report.agents:
        n = len(agent.runs)
        row = [agent.name, f"{n}"]
        if agent.failures is not None:
            row.append(f"{n - agent.failures} of {n}")
        rows.append(row + [_estimate(agent.estimates[metric.name], metric) for metric in shown])
    return table(header, rows)


_COST_NOTE = (
    "Means over seeds. Quantum parameters describe states and channels (photon numbers, damping); a circuit "
    "is one set of angles, run with many shots. *Share of searches and jobs*: the part of "
    "wall-clock time spent in updates that searched for a direction (nearly all of it classical gradients "
    "and checks) and in jobs of quantum replay; quantum-inspired attention is part of the network and cannot "
    "be told apart. Minutes hold everything, evaluations too, which take longer the better an agent plays, "
    "on the machines that ran, with whatever else ran there."
)


def _costs(report: Report) -> str:
    header = [
        "agent", "parameters, classical", "quantum", "updates", "circuits", "shots", "simulator s", "QPU s",
        "share of searches and jobs", "minutes a run", "ms of it per update",
    ]  # fmt: skip
    return table(header, [_cost_row(agent) for agent in report.agents])


def _cost_row(agent: Agent) -> list[str]:
    costs = [run.costs for run in agent.runs]

    def mean(name: str, form: str = ",.0f", scale: float = 1.0) -> str:
        values = [getattr(cost, name) for cost in costs]
        if None in values:
            return "not recorded"
        return format(float(np.mean(values)) * scale, form)

    per_update = float(np.mean([c.seconds / max(c.updates, 1) for c in costs])) * 1000
    return [
        agent.name, mean("classical_parameters"), mean("quantum_parameters"), mean("updates"),
        mean("circuits"), mean("shots"), mean("simulator_seconds", ",.1f"), mean("qpu_seconds", ",.1f"),
        mean("quantum_share", ".1%"), mean("seconds", ".1f", 1 / 60), f"{per_update:.0f}",
    ]  # fmt: skip


def _comparisons(report: Report) -> str:
    metric = report.metric
    header = ["comparison", "seeds", "difference [interval]", "level", "P(first better) [95 %]",
              "verdict on the first"]  # fmt: skip
    rows = [
        [
            f"**{item.comparison.kind}**: {_pair(item)}",
            f"{item.seeds[0]}, {item.seeds[1]}",
            change(item.verdict.interval, metric),
            f"{item.verdict.interval.level:.2%}",
            _percent(item.improvement),
            f"**{item.verdict.word}**: {item.verdict.reason}",
        ]
        for item in report.others
    ]
    return table(header, rows, (0, 5))


def _pair(item: ComparisonResult) -> str:
    return f"`{item.comparison.first}` against `{item.comparison.second}`"


_BESIDE_NOTE = (
    "Differences of interquartile means, first less second, with 95 % intervals of each alone. Nothing is "
    "corrected for their number, and no verdict is read from them."
)


def _beside(report: Report) -> str:
    names = list(report.comparisons[0].beside)
    rows = [
        [_pair(item), *(change(item.beside[name], METRICS[name]) for name in names)]
        for item in report.comparisons
    ]
    return table(["comparison", *(METRICS[name].title for name in names)], rows)


def _holm_note(report: Report) -> str:
    metric = report.metric
    better = "negative is better" if metric.sign < 0 else "positive is better"
    return (
        f"Differences in {metric.title}, first less second: {better} for the first. {len(report.others)} "
        "comparisons share Holm's correction: each interval has the level at which the family as a whole "
        "keeps 5 %."
    )


def _compared(report: Report) -> str:
    run = report.agents[0].runs[0]
    evaluation = run.config["evaluation"]
    runs = sum(len(agent.runs) for agent in report.agents)
    text = (
        f"{runs} runs of {run.budget:,.0f} environment steps; evaluated every {evaluation['every']} steps "
        f"on {evaluation['episodes']} episodes that training never sees (set {evaluation['seed']}), the same "
        "for all."
    )
    versions = dict(run.versions or ())
    if versions:
        text += " Versions: " + ", ".join(f"{k} {v}" for k, v in versions.items() if v) + "."
    commits = sorted({commit for agent in report.agents for run in agent.runs for commit in run.commits})
    if commits:
        text += f" Commits: {', '.join(commits)} (+: with edits)."
    if run.processors:
        text += f" Processor: {', '.join(run.processors)}."
    return text


def _picture(pictures: dict[str, Path], name: str, report: Report) -> list[str]:
    if name not in pictures:
        return []
    several = len(report.agents) > SHOWN and name != "comparisons"
    caption = _CAPTIONS[name] + " Baseline and candidate are in every row." * several
    return [f"![{caption}]({pictures[name].name})\n\n*{caption}*"]


def _estimate(interval: Interval, metric: Metric) -> str:
    return f"{metric.show(interval.point)} [{metric.show(interval.low)}, {metric.show(interval.high)}]"


def _signed(value: float, metric: Metric) -> str:
    return ("+" if value > 0 else "−" if value < 0 else "") + metric.show(abs(value))


def _percent(interval: Interval) -> str:
    return f"{interval.point:.0%} [{interval.low:.0%}, {interval.high:.0%}]"

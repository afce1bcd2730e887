"""All that a report says, as numbers: computed once, then written as text, pictures and TensorBoard."""

import math
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from qdreamer.analysis.ablation import Comparison, classify
from qdreamer.analysis.aggregates import Floats, iqm_of_tasks, probability_of_improvement
from qdreamer.analysis.bootstrap import Interval, curve_band, interval
from qdreamer.analysis.learning_curves import on_grid
from qdreamer.analysis.matching import check
from qdreamer.analysis.metric import METRICS, Metric, ceiling, failed, margin, primary
from qdreamer.analysis.names import short_names
from qdreamer.analysis.run_form import CompareError
from qdreamer.analysis.run_record import RunRecord
from qdreamer.analysis.verdict import Difference, Verdict, decide, decide_all, difference
from qdreamer.configs.schema import not_one_of

CANDIDATE = "hybrid"
_RESAMPLES = 40_000  # Holm's levels reach far into the tails
_RESAMPLES_CURVES = 2_000  # a band holds the interval of every point
_GRID = 160  # points of the wall-clock axis


@dataclass(frozen=True, eq=False)
class Band:
    """IQM of an agent's curves and the ends of its interval, over steps or seconds; all (T,)."""

    at: Floats
    mid: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True, eq=False)
class Agent:
    """One agent's runs, and what they come to."""

    name: str
    runs: list[RunRecord]
    estimates: dict[str, Interval]  # IQM by metric
    failures: int | None  # None without a threshold
    by_step: Band
    by_second: Band


@dataclass(frozen=True, eq=False)
class ComparisonResult:
    """A comparison and its verdict, which is on the first agent; more is better."""

    comparison: Comparison
    verdict: Verdict
    improvement: Interval  # probability that a run of the first does better
    seeds: tuple[int, int]
    beside: dict[str, Interval]  # differences in the other metrics, 95 % each; more is better


@dataclass(frozen=True, eq=False)
class Report:
    """All figures of a comparison of agents."""

    folder: Path
    env: str  # in words
    baseline: str
    candidate: str | None
    metric: Metric
    chosen: bool  # the metric was chosen on the command line
    threshold: float | None
    margin: float | None
    agents: list[Agent]  # baseline, candidate, then the others by name
    main: ComparisonResult | None
    others: list[ComparisonResult]
    ceiling: str | None
    notes: list[str]

    @property
    def comparisons(self) -> list[ComparisonResult]:
        """Return all of them, the main one first."""
        return [*([self.main] if self.main else []), *self.others]

    def frame(self) -> Any:
        """Return a pandas DataFrame with a row for each run: agent, seed, its metrics, its costs.

        Raises CompareError where pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise CompareError("a frame needs pandas: pip install pandas") from error
        known = [metric for metric in METRICS.values() if metric.applies(self.threshold)]
        rows = [
            {"agent": agent.name, "seed": run.seed}
            | {metric.name: float(metric.scores([run], self.threshold)[0]) for metric in known}
            | asdict(run.costs)
            for agent in self.agents
            for run in agent.runs
        ]
        return pandas.DataFrame(rows)

    def agent(self, name: str) -> Agent:
        return next(agent for agent in self.agents if agent.name == name)


@dataclass(frozen=True)
class Settings:
    """What a user may choose. Raises CompareError for what cannot be."""

    baseline: str | None = None
    primary: str | None = None
    threshold: float | None = None
    margin: float | None = None
    allow_versions: bool = False

    def __post_init__(self) -> None:
        if self.primary is not None and self.primary not in METRICS:
            raise CompareError(f"primary={not_one_of(self.primary, METRICS)}")
        for name in ("threshold", "margin"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, Real) and math.isfinite(value)):
                raise CompareError(f"{name}={value} must be a finite number")
        if self.margin is not None and self.margin < 0.0:
            raise CompareError(f"margin={self.margin} must be at least 0")


def compare(folder: Path, runs: Sequence[RunRecord], settings: Settings) -> Report:
    """Compare finished runs of one environment. Raises CompareError if they do not match."""
    names, shared = short_names(run.agent for run in runs)
    runs = [replace(run, agent=names[run.agent]) for run in runs]
    notes = check(runs, settings.allow_versions)
    notes += [f"All runs were made with {', '.join(shared)}; names leave that out."] * bool(shared)
    groups: dict[str, list[RunRecord]] = {}
    for run in sorted(runs, key=lambda run: (run.agent, run.seed)):
        groups.setdefault(run.agent, []).append(run)
    wanted = settings.baseline and names.get(settings.baseline, settings.baseline)
    baseline, candidate = choose(list(groups), wanted)
    solved = runs[0].config["env"]["solved"]
    threshold = solved if settings.threshold is None else settings.threshold
    metric = primary(settings.primary, threshold)
    order = [name for name in (baseline, candidate) if name]
    order += [name for name in groups if name not in order]
    agents = [_agent(name, groups[name], threshold) for name in order]
    stated = margin(metric, settings.margin, runs)
    main, others = _judge(groups, baseline, candidate, metric, threshold, stated)
    return Report(
        folder, _task(runs[0]), baseline, candidate, metric, settings.primary is not None,
        threshold, stated, agents, main, others, ceiling(runs), notes,
    )  # fmt: skip


def _task(run: RunRecord) -> str:
    """Return the environment in words."""
    env = run.config["env"]
    hidden = ", ".join(map(str, env.get("hide") or ()))
    return f"{env['id']} without entries {hidden}" if hidden else str(env["id"])


def choose(agents: list[str], wanted: str | None) -> tuple[str, str | None]:
    """Return baseline and candidate: `classical` and `hybrid` where they exist. Raises CompareError."""
    if wanted is not None and wanted not in agents:
        raise CompareError(f"--baseline {wanted} is not one of {', '.join(agents)}")
    if wanted is None and "classical" not in agents and len(agents) > 1:
        raise CompareError(f"there is no agent called classical: give --baseline, one of {', '.join(agents)}")
    baseline = wanted or ("classical" if "classical" in agents else agents[0])
    rest = [name for name in agents if name != baseline]
    if CANDIDATE in rest:
        return baseline, CANDIDATE
    return baseline, rest[0] if len(rest) == 1 else None


def _stream(*names: str) -> np.random.Generator:
    """Return draws that depend on these names alone: other agents change no figure of a pair."""
    return np.random.default_rng([zlib.crc32(name.encode()) for name in names])


def _agent(name: str, runs: list[RunRecord], threshold: float | None) -> Agent:
    estimates = {
        key: interval(iqm_of_tasks, [metric.scores(runs, threshold)[:, None]], _stream(name, key), _RESAMPLES)
        for key, metric in METRICS.items()
        if metric.applies(threshold)
    }
    steps, random = runs[0].steps, _stream(name)
    by_step = Band(steps, *curve_band(np.stack([run.returns for run in runs]), random, _RESAMPLES_CURVES))
    grid = np.linspace(max(run.seconds[0] for run in runs), max(run.seconds[-1] for run in runs), _GRID)
    curves = np.stack([on_grid(run.seconds, run.returns, grid) for run in runs])
    by_second = Band(grid, *curve_band(curves, random, _RESAMPLES_CURVES // 2))
    failures = None if threshold is None else int(failed(runs, threshold).sum())
    return Agent(name, runs, estimates, failures, by_step, by_second)


def _judge(
    groups: dict[str, list[RunRecord]],
    baseline: str,
    candidate: str | None,
    metric: Metric,
    threshold: float | None,
    stated: float | None,
) -> tuple[ComparisonResult | None, list[ComparisonResult]]:
    """Return the main comparison, which stands alone, and the others, which share Holm's correction."""
    configs = {name: runs[0].config for name, runs in groups.items()}
    every = {
        key: {name: m.sign * m.scores(runs, threshold) for name, runs in groups.items()}
        for key, m in METRICS.items()
        if m.applies(threshold)
    }  # (R,) each, more is better
    scores = every.pop(metric.name)
    ranks = scores
    if metric.needs_threshold and threshold is not None:  # a failure is worse than success at the end
        ranks = {n: np.where(failed(runs, threshold), -np.inf, scores[n]) for n, runs in groups.items()}
    names = [name for name in groups if name not in (baseline, candidate)]
    pairs = [classify(name, configs, candidate, baseline) for name in names]
    differences = [_difference(pair, metric.name, scores) for pair in pairs]
    verdicts = decide_all(differences, stated)
    others = [_judged(*item, ranks, every) for item in zip(pairs, verdicts, strict=True)]
    if candidate is None:
        return None, others
    pair = classify(candidate, configs, candidate, baseline)
    verdict = decide(_difference(pair, metric.name, scores), stated)
    return _judged(pair, verdict, ranks, every), others


def _difference(pair: Comparison, metric: str, scores: dict[str, Floats]) -> Difference:
    random = _stream(pair.first, pair.second, metric)
    return difference(scores[pair.first], scores[pair.second], random, _RESAMPLES)


def _judged(
    pair: Comparison, verdict: Verdict, ranks: dict[str, Floats], others: dict[str, dict[str, Floats]]
) -> ComparisonResult:
    x, y = (ranks[name][:, None] for name in (pair.first, pair.second))
    random = _stream(pair.first, pair.second)
    improvement = interval(probability_of_improvement, [x, y], random, _RESAMPLES)
    beside = {key: _difference(pair, key, scores).interval() for key, scores in others.items()}
    return ComparisonResult(pair, verdict, improvement, (len(x), len(y)), beside)

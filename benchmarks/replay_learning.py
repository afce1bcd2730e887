"""Samplers beside each other: python -m benchmarks.replay_learning runs/CartPole/*/seed_*.

One row for each sampler: give it runs that differ in nothing else. Area: mean of a run's evaluations
over all its steps, so that both learning early and staying there count. Intervals: percentile bootstrap
over seeds; with five of them a "95 %" interval holds the truth in about nine cases of ten, and
differences between samplers are noise unless they are far larger than the spread of the seeds.
"""

import argparse
from collections import defaultdict
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from benchmarks.learning import read_metrics
from qdreamer.agents.interaction.evaluation import mean_and_interval
from qdreamer.agents.runs.run_directory import read_config

RESAMPLES = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--base", default="uniform", help="the sampler that others are compared with")
    a = parser.parse_args()
    areas: dict[str, list[float]] = defaultdict(list)
    last: dict[str, list[float]] = defaultdict(list)
    reached: dict[str, list[int | None]] = defaultdict(list)
    for directory in a.runs:
        config = read_config(directory)
        lines = read_metrics(directory, "eval/return")
        scores = [line["eval/return"] for line in lines]
        name = config.replay.name
        areas[name].append(float(np.mean(scores)))
        last[name].append(float(np.mean(scores[-3:])))
        solved = config.env.solved
        steps = [line["step"] for line in lines if solved is not None and line["eval/return"] >= solved]
        reached[name].append(steps[0] if steps else None)
    print("| replay | seeds | steps to threshold, by seed | area [95 %] | minus base [95 %] | last three |")
    print("|---|---|---|---|---|---|")
    for name, values in areas.items():
        shown = ", ".join("–" if s is None else f"{s}" for s in reached[name])
        if None not in reached[name]:
            shown += f" (median {median(s for s in reached[name] if s is not None):.0f})"
        mean, low, high = mean_and_interval(values)
        gap = "" if name == a.base else between(np.array(values), np.array(areas[a.base]))
        end, end_low, end_high = mean_and_interval(last[name])
        print(
            f"| {name} | {len(values)} | {shown} | {mean:.1f} [{low:.1f}, {high:.1f}] | {gap} "
            f"| {end:.1f} [{end_low:.1f}, {end_high:.1f}] |"
        )


def between(ours: NDArray[np.float64], base: NDArray[np.float64]) -> str:
    """Difference of the means and its interval, both sets of seeds resampled."""
    random = np.random.default_rng(0)
    means = [v[random.integers(len(v), size=(RESAMPLES, len(v)))].mean(1) for v in (ours, base)]
    low, high = np.quantile(means[0] - means[1], [0.025, 0.975])
    return f"{ours.mean() - base.mean():+.1f} [{low:+.1f}, {high:+.1f}]"


if __name__ == "__main__":
    main()

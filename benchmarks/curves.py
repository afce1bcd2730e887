"""Learning curves of runs as one picture: python -m benchmarks.curves curves.png runs/*/*/seed_*.

One panel for each environment: every seed's evaluations (mean return on unseen episodes) in thin
lines, their mean in a thick one where all seeds have one, and the environment's `solved` dashed.
Runs with other settings have another colour, and are named by the settings of their folder.
"""

import argparse
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from agents.config import Config
from agents.run_directory import read_config
from benchmarks.learning import read_metrics

Curve = tuple[list[int], list[float]]  # steps, mean returns
Group = dict[str, list[Curve]]  # by folder: one agent with its settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    a = parser.parse_args()
    curves: dict[str, Group] = defaultdict(lambda: defaultdict(list))
    configs: dict[str, Config] = {}
    for directory in a.runs:
        config = read_config(directory)
        lines = read_metrics(directory, "eval/return")
        seed = ([x["step"] for x in lines], [x["eval/return"] for x in lines])
        curves[config.env.id][directory.resolve().parent.name].append(seed)
        configs[config.env.id] = config
    figure, axes = plt.subplots(
        1, len(curves), figsize=(4 * len(curves), 3), squeeze=False, layout="constrained"
    )
    for axis, (name, groups) in zip(axes[0], curves.items(), strict=True):
        panel(axis, name, groups, configs[name].env.solved)
    figure.savefig(a.picture, dpi=110)
    counts = {name: sum(map(len, groups.values())) for name, groups in curves.items()}
    print(f"{a.picture}: " + ", ".join(f"{name} ({count} runs)" for name, count in counts.items()))


def panel(axis: Axes, name: str, groups: Group, solved: float | None) -> None:
    """One environment's curves."""
    for i, (folder, seeds) in enumerate(groups.items()):
        color = f"C{i}"
        for steps, returns in seeds:
            axis.plot(steps, returns, color=color, alpha=0.35 if len(groups) == 1 else 0.2, linewidth=1)
        common = sorted(set.intersection(*(set(steps) for steps, _ in seeds)))
        means = [np.mean([dict(zip(*seed, strict=True))[step] for seed in seeds]) for step in common]
        label = f"mean of {len(seeds)} seeds"
        if len(groups) > 1:
            label = f"{folder.partition('+')[2] or folder}, {label}"
        axis.plot(common, means, color=color, linewidth=2, label=label)
    if solved is not None:
        axis.axhline(solved, color="grey", linestyle="--", linewidth=1, label=f"solved: {solved:g}")
    axis.set(title=name.rpartition(":")[2], xlabel="environment steps", ylabel="return on unseen episodes")
    axis.legend(frameon=False, fontsize=7 if len(groups) > 1 else 8)


if __name__ == "__main__":
    main()

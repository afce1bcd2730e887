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

from benchmarks.learning import read_metrics
from qdreamer.agents.runs.config import Config
from qdreamer.agents.runs.run_directory import read_config

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
    for i, (label, (_, seeds)) in enumerate(sorted(zip(labels(list(groups)), groups.items(), strict=True))):
        color = f"C{i}"
        for steps, returns in seeds:
            axis.plot(steps, returns, color=color, alpha=0.35 if len(groups) == 1 else 0.2, linewidth=1)
        common = sorted(set.intersection(*(set(steps) for steps, _ in seeds)))
        means = [np.mean([dict(zip(*seed, strict=True))[step] for seed in seeds]) for step in common]
        axis.plot(common, means, color=color, linewidth=2, label=f"{label}, mean of {len(seeds)} seeds")
    if solved is not None:
        axis.axhline(solved, color="grey", linestyle="--", linewidth=1, label=f"solved: {solved:g}")
    axis.set(title=name.rpartition(":")[2], xlabel="environment steps", ylabel="return on unseen episodes")
    axis.legend(frameon=False, fontsize=7 if len(groups) > 1 else 8)


def labels(folders: list[str]) -> list[str]:
    """Each folder's name without the settings that all of them have; classical if nothing is left."""
    parts = [folder.split("+") for folder in folders]
    shared = set.intersection(*map(set, parts)) if len(parts) > 1 else set()
    kept = ["+".join(p for p in words if p not in shared) for words in parts]
    return [
        text or "+".join(p for p in words if "=" not in p) for text, words in zip(kept, parts, strict=True)
    ]


if __name__ == "__main__":
    main()

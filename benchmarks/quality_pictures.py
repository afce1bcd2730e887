"""Pictures of what benchmarks.quality found: python -m benchmarks.quality_pictures docs [--out runs/quality].

`quality.png`: ratios to softmax with their intervals, for tasks whose cells are all there.
`attention-maps.png`: who attends to whom on one held-out sequence, in the trained models of the first
seed; all heads of both layers for each kind (of born's sixteen every other one). Rows of weights are
divided by their largest entry.
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from benchmarks.quality import SEEDS, TASKS, Cells, log_ratio
from benchmarks.quality_models import ATTENTIONS, SETTINGS, build
from qdreamer.envs.entries import ENTRY

SHOWN = 8
"""Heads of each kind in the picture of maps."""


STEPS = (1.0, 2.0, 5.0)
"""Ticks within a factor of ten."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    parser.add_argument(
        "--maps", nargs="+", default=["recall", "cartpole"], help="tasks whose maps are shown"
    )
    a = parser.parse_args()
    cells = Cells(a.out)
    draw_ratios(cells, a.folder / "quality.png")
    trained = [t for t in a.maps if all(cells.weights(t, kind).exists() for kind in ATTENTIONS)]
    draw_maps(cells, trained, a.folder / "attention-maps.png")


def draw_ratios(cells: Cells, picture: Path) -> None:
    """One panel for each score."""
    finished = [t for t in TASKS if all(cells.find(t, kind, seed) for kind in SETTINGS for seed in SEEDS)]
    panels = [(task, score) for task in finished for score in TASKS[task].scores]
    others = [kind for kind in SETTINGS if kind != "softmax"]
    figure, axes = plt.subplots(
        1, len(panels), figsize=(2.4 * len(panels), 2.4), sharey=True, layout="constrained"
    )
    for axis, (task, score) in zip(axes, panels, strict=True):
        for y, kind in enumerate(others):
            pairs = [(cells.find(task, kind, seed), cells.find(task, "softmax", seed)) for seed in SEEDS]
            ours, base = zip(*((x[score], y[score]) for x, y in pairs if x and y), strict=True)
            middle, low, high = log_ratio(list(ours), list(base))
            axis.plot([low, high], [y, y], color="tab:blue", linewidth=2)
            axis.plot(np.divide(ours, base), [y] * len(ours), "o", color="tab:blue", alpha=0.35, markersize=3)
            axis.plot(middle, y, "o", color="tab:blue", markersize=6)
        axis.axvline(1.0, color="grey", linewidth=1, linestyle="--")
        axis.set(title=f"{task}, {score}", xscale="log", ylim=(len(others) - 0.5, -0.5))
        axis.set_yticks(range(len(others)), others)
        low, high = axis.get_xlim()
        steps = STEPS[:1] if high > 50.0 * low else STEPS
        ticks = [x * 10.0**k for k in range(-4, 5) for x in steps if low <= x * 10.0**k <= high]
        axis.set_xticks(ticks, [f"{x:g}" for x in ticks])
        axis.set_xticks([], minor=True)
    figure.supxlabel("error divided by softmax's: geometric mean, 95 % interval, seeds", fontsize=9)
    figure.savefig(picture, dpi=100)


def draw_maps(cells: Cells, tasks: list[str], picture: Path) -> None:
    """One row for each task and kind."""
    figure, axes = plt.subplots(
        len(tasks) * len(ATTENTIONS),
        SHOWN,
        figsize=(1.05 * SHOWN, 1.15 * len(tasks) * len(ATTENTIONS)),
        layout="constrained",
    )
    for i, task in enumerate(tasks):
        for j, kind in enumerate(ATTENTIONS):
            row = axes[i * len(ATTENTIONS) + j]
            for axis, (name, weights) in zip(row, maps(cells, task, kind), strict=True):
                draw_map(axis, name, weights)
            row[0].set_ylabel(f"{task}\n{kind}", fontsize=7)
    figure.savefig(picture, dpi=100)


def draw_map(axis: Axes, name: str, weights: Tensor) -> None:
    relative = weights / weights.amax(-1, keepdim=True)
    axis.imshow(relative.numpy(), cmap="magma", vmin=0.0, vmax=1.0, interpolation="nearest")
    axis.set_title(name, fontsize=7, pad=2)
    axis.set_xticks([])
    axis.set_yticks([])


@torch.no_grad()
def maps(cells: Cells, task: str, kind: str) -> list[tuple[str, Tensor]]:
    """Heads (T, T) of the trained model on one held-out sequence."""
    spec = TASKS[task]
    data = spec.data(SEEDS[0], 1, spec.held_out)
    agent = build(kind, data.observation, data.action, spec.length, 0)
    model = agent.world_model
    model.load_state_dict(torch.load(cells.weights(task, kind), weights_only=True))
    episode = max(data.test, key=lambda e: len(e.observations))
    length = min(spec.length, len(episode.observations))
    observation = {ENTRY: torch.from_numpy(episode.observations[None, :length])}
    previous = torch.from_numpy(np.vstack([0 * episode.actions[:1], episode.actions])[None, :length])
    is_first = torch.zeros(1, length)
    is_first[:, 0] = 1.0
    carry = model.rssm.initial(1)
    generator = torch.Generator().manual_seed(0)
    trajectory = model.observe(observation, previous, is_first, carry, generator=generator)
    views = model.rssm.inspect(trajectory, previous, is_first)
    heads = [
        (f"layer {n}, head {i}", w)
        for n, view in enumerate(views, 1)
        for i, w in enumerate(view.weights[0], 1)
    ]
    return heads[:: len(heads) // SHOWN]


if __name__ == "__main__":
    main()

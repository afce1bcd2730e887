"""What the attention did in an evaluation episode: numbers per head, and its maps below the observation."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qdreamer.agents.dreamer import Dreamer
from qdreamer.agents.interaction.evaluation import EvaluationEpisode, side_by_side
from qdreamer.agents.reporting.pictures import DPI, FONT, WIDTH, rgb
from qdreamer.envs.interface import Observation
from qdreamer.worldmodel.sequence_models.layer_view import LayerView

STEPS = 64
NUMBERS = 64  # of an observation that are shown at most
COLUMNS = 2  # maps beside each other: more are too small to see


def attention_views(agent: Dreamer, episode: EvaluationEpisode) -> list[LayerView]:
    """Return each layer's view of the episode's first steps; none for models without attention."""
    rssm = agent.world_model.rssm
    device = next(agent.parameters()).device
    steps = min(STEPS, episode.length)
    seen, *others = side_by_side([episode], episode.length)
    observation = {name: values[:, :steps].to(device) for name, values in seen.items()}
    action, is_first = (x[:, :steps].to(device) for x in others)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        trajectory = agent.world_model.observe(
            observation, action, is_first, rssm.initial(1), generator=generator
        )
    return rssm.inspect(trajectory, action, is_first)


def attention_numbers(views: list[LayerView], batch_length: int) -> dict[str, float]:
    """Return the views' numbers as attention/<number>/layer_<l>_head_<i>.

    `age` is in steps; `beyond_batch` is the share of attention that goes further back than a batch reaches.
    """
    return {
        f"attention/{name}/layer_{i}_head_{j}": float(value)
        for i, view in enumerate(views)
        for name, values in {
            **view.numbers, "age": view.age(), "beyond_batch": view.share_beyond(batch_length),
        }.items()
        for j, value in enumerate(values)
    }  # fmt: skip


def attention_picture(views: list[LayerView], observation: Observation, title: str) -> NDArray[np.uint8]:
    """Draw the maps of all heads below the observations (L, ·), some of their numbers: RGB (H, W, 3).

    Row n of a map is what step n attends to; the columns are the steps that the observations stand at.
    """
    from matplotlib.figure import Figure  # lazily: half a second

    heads = [(i, j) for i, view in enumerate(views) for j in range(view.weights.shape[1])]
    columns = min(len(heads), COLUMNS)
    rows = -(-len(heads) // columns)
    figure = Figure(figsize=(WIDTH, 1.5 + rows * WIDTH / columns), dpi=DPI, layout="constrained")
    ratios = [0.35, *[1.0] * rows]
    axes: Any = figure.subplots(
        rows + 1, columns, squeeze=False, sharex=True, gridspec_kw={"height_ratios": ratios}
    )
    steps = views[0].weights.shape[-1]
    entries = [values[:steps].reshape(steps, -1).astype(np.float32) for values in observation.values()]
    numbers = np.concatenate(entries, 1)  # (T, O)
    numbers = numbers[:, np.unique(np.linspace(0, numbers.shape[1] - 1, NUMBERS).astype(int))]
    scale = np.abs(numbers).max(0).clip(min=1e-6)  # of each number
    for axis in axes[0]:
        axis.imshow((numbers / scale).T, cmap="RdBu", vmin=-1.0, vmax=1.0, aspect="auto")
        axis.set_title("observation", fontsize=FONT)
        axis.set_yticks([])
    for axis, (i, j) in zip(axes[1:].flat, heads, strict=False):
        axis.imshow(_rows_to_one(views[i].weights[0, j]), cmap="viridis", vmin=0.0, vmax=1.0)
        entropy = float(views[i].numbers["entropy"][j])
        axis.set_title(f"layer {i} head {j}: {entropy:.1f} nats", fontsize=FONT)
    for axis in axes.flat:
        axis.tick_params(labelsize=FONT)
        axis.xaxis.get_major_locator().set_params(integer=True)
    for axis in axes[1:].flat[len(heads) :]:
        axis.set_visible(False)
    figure.supxlabel("step attended to", fontsize=FONT)
    figure.supylabel("step", fontsize=FONT)
    figure.suptitle(title, fontsize=FONT)
    return rgb(figure)


def _rows_to_one(weights: Tensor) -> NDArray[np.float32]:
    """Divide every row by its largest weight, so that wide attention shows too."""
    return (weights / weights.amax(-1, keepdim=True).clamp(min=1e-12)).cpu().numpy()

"""What the attention did in an evaluation episode: numbers per head and a picture of its maps."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qdreamer.agents.dreamer import Dreamer
from qdreamer.agents.interaction.evaluation import EvaluationEpisode, side_by_side
from qdreamer.agents.reporting.pictures import rgb
from qdreamer.worldmodel.sequence_models.layer_view import LayerView

STEPS = 64


def attention_views(agent: Dreamer, episode: EvaluationEpisode) -> list[LayerView]:
    """Return each layer's view of the episode's first steps; none for models without attention."""
    rssm = agent.world_model.rssm
    device = next(agent.parameters()).device
    batch = side_by_side([episode], episode.length)
    observation, action, is_first = (x[:, : min(STEPS, episode.length)].to(device) for x in batch)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        trajectory = agent.world_model.observe(
            observation, action, is_first, rssm.initial(1), generator=generator
        )
    return rssm.inspect(trajectory, action, is_first)


def attention_numbers(views: list[LayerView]) -> dict[str, float]:
    """Return the views' numbers as attention/<number>/layer_<l>_head_<i>."""
    return {
        f"attention/{name}/layer_{i}_head_{j}": float(value)
        for i, view in enumerate(views)
        for name, values in view.numbers.items()
        for j, value in enumerate(values)
    }


def attention_picture(views: list[LayerView], title: str) -> NDArray[np.uint8]:
    """Draw the maps of all heads: RGB (H, W, 3). Row n of a map is what step n attends to."""
    from matplotlib.figure import Figure  # lazily: half a second

    heads = views[0].weights.shape[1]
    figure = Figure(figsize=(2.2 * heads + 0.6, 2.3 * len(views) + 0.9), layout="constrained")
    axes: Any = figure.subplots(len(views), heads, squeeze=False, sharex=True, sharey=True)
    for i, view in enumerate(views):
        for j in range(heads):
            axis = axes[i][j]
            axis.imshow(_rows_to_one(view.weights[0, j]), cmap="viridis", vmin=0.0, vmax=1.0)
            entropy = float(view.numbers["entropy"][j])
            axis.set_title(f"layer {i} head {j}: {entropy:.1f} nats", fontsize=8)
    figure.supxlabel("step attended to", fontsize=9)
    figure.supylabel("step", fontsize=9)
    figure.suptitle(title, fontsize=10)
    return rgb(figure)


def _rows_to_one(weights: Tensor) -> NDArray[np.float32]:
    """Divide every row by its largest weight, so that wide attention shows too."""
    return (weights / weights.amax(-1, keepdim=True).clamp(min=1e-12)).cpu().numpy()

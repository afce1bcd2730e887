"""World models whose weights are not those of their start."""

from collections.abc import Callable

import torch

from qdreamer.agents.runs.config import Config
from qdreamer.envs.entries import Vector
from qdreamer.worldmodel.model import WorldModel


def perturbed(make_config: Callable[..., Config], *settings: str) -> WorldModel:
    """Return the model of these settings, for vectors of four numbers and two actions."""
    config = make_config(*settings)
    torch.manual_seed(0)
    model = WorldModel(config.world_model, config.sequence, config.attention, {"observation": Vector(4)}, 2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model

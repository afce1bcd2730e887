"""What replay may go by: errors of each replayed sequence, (B,), ≥ 0, from what the losses computed."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from qdreamer.worldmodel.model import Batch, WorldModel


class PriorityInputs(NamedTuple):
    """What one pass over a batch holds, without gradients."""

    world_model: WorldModel
    losses: dict[str, Tensor]  # unscaled, (B, T)
    batch: Batch
    features: Tensor  # (B, T, F)
    value: Tensor  # (B, K), of the last K steps
    horizon: float  # γ = 1 − 1/horizon


def model_loss(evidence: PriorityInputs) -> Tensor:
    """The scaled world-model loss, mean over T."""
    scales = evidence.world_model.loss_scales
    return torch.stack([evidence.losses[name].mean(1) * scale for name, scale in scales.items()]).sum(0)


def td_error(evidence: PriorityInputs) -> Tensor:
    """|r + γV(s′) − V(s)|, mean over the last K − 1 steps; 0 across the end of an episode."""
    batch, value = evidence.batch, evidence.value
    steps = value.shape[1]
    reward, terminal = batch.reward[:, -steps:], batch.is_terminal[:, -steps:]
    discount = (1.0 - terminal) * (1.0 - 1.0 / evidence.horizon)
    error = reward[:, 1:] + discount[:, 1:] * value[:, 1:] - value[:, :-1]
    inside = 1.0 - batch.is_last[:, -steps:][:, :-1]
    return (inside * error.abs()).sum(1) / inside.sum(1).clamp(min=1.0)


def reward_error(evidence: PriorityInputs) -> Tensor:
    """|expected reward − reward|, mean over T."""
    predicted = evidence.world_model.reward(evidence.features).pred()
    return (predicted - evidence.batch.reward).abs().mean(1)


Signal = Callable[[PriorityInputs], Tensor]

SIGNALS: dict[str, Signal] = {"model": model_loss, "td": td_error, "reward": reward_error}

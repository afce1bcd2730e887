"""What one layer of attention does: who attends to whom, how widely, and what each head has learned."""

from typing import NamedTuple

import torch
from torch import Tensor

from qdreamer.worldmodel.attention.decay import decay_bias
from qdreamer.worldmodel.attention.draws import effective_keys, entropy
from qdreamer.worldmodel.attention.kernel import AttentionKernel
from qdreamer.worldmodel.sequence_models.context import QKV, Visibility


class LayerView(NamedTuple):
    """One layer; h heads."""

    weights: Tensor  # (B, h, T, T), exact, without noise
    numbers: dict[str, Tensor]  # (h,) each

    def age(self) -> Tensor:
        """Return how many steps lie between those who attend and what they attend to, (h,), on average."""
        steps = torch.arange(self.weights.shape[-1], device=self.weights.device)
        distance = (steps.unsqueeze(-1) - steps).to(self.weights)  # (T, T)
        return (self.weights * distance).sum(-1).mean((0, 2))

    def share_beyond(self, steps: int) -> Tensor:
        """Return the share of attention that goes to what is at least so many steps old, (h,)."""
        return self.weights.tril(-steps).sum(-1).mean((0, 2))


def view_layer(kind: AttentionKernel, heads: QKV, visibility: Visibility, grad: Tensor | None) -> LayerView:
    """Return the view of T steps that begin an episode or more.

    Args:
        grad: of the weights (3·h·d, E) that make queries, keys and values, if there is one.
    """
    mask, bias = visibility.mask, None
    if heads.log_decay is not None:  # no window then
        own = visibility.segments
        mask = ((own.unsqueeze(-1) == own.unsqueeze(1)).tril()).unsqueeze(1)
        bias = decay_bias(heads.log_decay, own)
    weights = kind.weights(heads.q, heads.k, mask, bias)  # (B, h, T, T)
    spread = effective_keys(weights)  # (B, h, T)
    numbers = {"entropy": entropy(weights).mean((0, 2)), "effective_keys": spread.mean((0, 2))}
    numbers |= kind.head_numbers(heads.q, heads.k, heads.v, mask)
    if heads.log_decay is not None:
        numbers["memory_steps"] = (1.0 / -torch.expm1(heads.log_decay)).mean((0, 2))  # 1/(1 − γ)
    if grad is not None:
        per_head = grad.unflatten(0, (3, len(numbers["entropy"]), -1))  # (3, h, d, E)
        numbers["gradient_norm"] = per_head.square().sum((0, 2, 3)).sqrt()
    return LayerView(weights, numbers)

"""Vectors of S categorical variables with K classes: unimix, straight-through draws, KL.

Probabilities rather than logits are passed around: they are computed once, the draw needs only
their running sums, and every logarithm is taken once over the whole (B, T).
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def unimix_probs(logits: Tensor, unimix: float) -> Tensor:
    """(1 − u)·softmax(logits) + u/K over the last axis (Hafner et al. 2023, u = 1 %)."""
    probs = torch.softmax(logits, -1)
    return probs if unimix == 0.0 else probs * (1.0 - unimix) + unimix / logits.shape[-1]


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, probs: Tensor, uniform: Tensor) -> Tensor:
        index = sample_index(probs, uniform).unsqueeze(-1)
        return torch.zeros_like(probs).scatter_(-1, index, 1.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def sample_straight_through(probs: Tensor, uniform: Tensor) -> Tensor:
    """One-hot draw from `probs` (…, K) whose gradient is that of `probs`.

    `uniform` (…) holds independent U[0, 1) variables: one number per draw instead of one per class.
    """
    return _StraightThrough.apply(probs, uniform)


def sample_index(probs: Tensor, uniform: Tensor) -> Tensor:
    """Class index (…) drawn from `probs` (…, K) by inverting its distribution function."""
    below = probs.cumsum(-1) <= uniform.unsqueeze(-1)
    # Rounding may leave the last sum under 1, and the variable above it.
    return below.sum(-1).clamp(max=probs.shape[-1] - 1)


def kl_divergence(p: Tensor, q: Tensor) -> Tensor:
    """Σ over (S, K) of p ln(p/q): (…, S, K) → (…). Both need unimix, so that q > 0."""
    return (p * (torch.log(p) - torch.log(q))).sum((-2, -1))


def entropy(p: Tensor) -> Tensor:
    """−Σ over (S, K) of p ln p, in nats: (…, S, K) → (…)."""
    return -torch.xlogy(p, p).sum((-2, -1))

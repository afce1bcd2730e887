"""Vectors of S categorical variables with K classes: unimix, straight-through draws, KL.

Probabilities rather than logits are passed around: they are computed once, the draw needs only
their running sums, and every logarithm is taken once over the whole (B, T).
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

FEW_CLASSES = 15
"""Up to so many, a CPU is faster along the rows than along the classes."""


def softmax(logits: Tensor) -> Tensor:
    """Return the softmax over the last axis, also fast on a CPU when that axis is short.

    torch vectorises along the classes: with four of them it is fifty times slower than along the
    rows. So a few classes become the outer axis in memory, and stay so in what is derived from
    the result; its shape is that of `logits`.
    """
    classes = logits.shape[-1]
    if classes > FEW_CLASSES or not logits.is_cpu:
        return torch.softmax(logits, -1)
    outer = logits.reshape(-1, classes).t().contiguous()  # (K, R)
    return torch.softmax(outer, 0).t().view(logits.shape)


def unimix_probs(logits: Tensor, unimix: float) -> Tensor:
    """Return (1 − u)·softmax(logits) + u/K over the last axis (DreamerV3: u = 1 %)."""
    probs = softmax(logits)
    return probs if unimix == 0.0 else (probs * (1.0 - unimix)).add_(unimix / logits.shape[-1])


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, probs: Tensor, uniform: Tensor) -> Tensor:
        return one_hot(sample_index(probs, uniform), probs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def sample_straight_through(probs: Tensor, uniform: Tensor) -> Tensor:
    """Return a one-hot draw from `probs` (…, K) whose gradient is that of `probs`.

    `uniform` (…) holds independent U[0, 1) variables: one number per draw instead of one per class.
    With `uniform` (…, K) from `frozen_sample`, the draws do not follow the probabilities.
    """
    if uniform.dim() == probs.dim():
        return probs + uniform
    if torch.is_grad_enabled():
        return _StraightThrough.apply(probs, uniform)
    return one_hot(sample_index(probs, uniform), probs)


def frozen_sample(one_hot: Tensor, probs: Tensor) -> Tensor:
    """Hold drawn classes (…, K) as they are: return c = z₀ − p₀, to be given in place of U[0, 1) variables.

    With them a latent is z = p(θ) + c. At the weights of the draw it is the drawn class, and its gradient
    is the straight-through one. Elsewhere, unlike a straight-through draw, it is a smooth function of the
    weights whose gradient that is: it has a Hessian, and a symmetric one.
    """
    return (one_hot.view_as(probs) - probs).detach()


def sample_index(probs: Tensor, uniform: Tensor) -> Tensor:
    """Return the class index (…) drawn from `probs` (…, K) by inverting its distribution function."""
    below = probs.cumsum(-1) <= uniform.unsqueeze(-1)
    # Rounding may leave the last sum under 1, and the variable above it.
    return below.sum(-1).clamp(max=probs.shape[-1] - 1)


def one_hot(index: Tensor, like: Tensor) -> Tensor:
    """Return class indices (…) as one-hot vectors (…, K) of the type of `like` and its number of classes."""
    eye = _eye(like.shape[-1], like.dtype, like.device)
    return eye.index_select(0, index.flatten()).view(*index.shape, -1)


@cache
def _eye(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.eye(size, dtype=dtype, device=device)


def kl_divergence(p: Tensor, q: Tensor) -> Tensor:
    """Return Σ over (S, K) of p ln(p/q): (…, S, K) → (…). Both need unimix, so that q > 0."""
    return (p * (torch.log(p) - torch.log(q))).sum((-2, -1))


def entropy(p: Tensor) -> Tensor:
    """Return −Σ over (S, K) of p ln p, in nats: (…, S, K) → (…)."""
    return -torch.xlogy(p, p).sum((-2, -1))

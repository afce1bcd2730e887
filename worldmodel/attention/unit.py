"""Vectors of length one: what coherent states and amplitude encodings are made of."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

SMALLEST = 1e-12
"""Added to |x|²: shorter vectors than 1e-6 fade to zero instead of dividing by it."""


def unit(x: Tensor, length: Tensor | None = None) -> Tensor:
    """x/|x| along the last axis, times `length` (broadcastable to (…, 1)). The zero vector stays zero."""
    return _Unit.apply(x, length)


class _Unit(torch.autograd.Function):
    """y = ℓu, u = x/|x|: ∂L/∂x = ℓ(g − u(u·g))/|x|, ∂L/∂ℓ = u·g. Two passes less than autograd takes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, length: Tensor | None) -> Tensor:
        inverse = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().add_(SMALLEST).rsqrt_()
        u = x * inverse
        ctx.save_for_backward(u, inverse, length)
        return u if length is None else u * length

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None]:
        u, inverse, length = ctx.saved_tensors
        along = (u * grad).sum(-1, keepdim=True)
        grad_length = None if length is None else along.sum_to_size(length.shape)
        scale = inverse if length is None else inverse * length
        return torch.addcmul(grad, u, along, value=-1.0).mul_(scale), grad_length

"""Stacks of Linear → RMSNorm → SiLU, and a linear map behind them: what every network here is made of.

    y = SiLU(scale·x̂);   x̂ = x/rms;   rms² = mean(x²) + ε

As separate operations norm and SiLU cost more than the matrix product before them on a CPU. In C (c/mlp.c)
some rows go through all layers before the next ones, forward and back, and nothing is recorded between
layers: what the gradients need is x̂, 1/rms and y. On an AMD server (AVX2) that takes .4 to .7 of the time of
torch's operations at 64 units, .8 to .9 at 256, as long at 512 (`python -m benchmarks.stacks`).
"""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from qdreamer.native.dispatch import Function, Kernel, fits
from qdreamer.native.library import INT64, POINTER, Struct, members
from qdreamer.native.products import linear, rounds
from qdreamer.native.structs import (
    Activations,
    Affine,
    CallMemory,
    CLayer,
    Layer,
    Stack,
    kept_numbers,
    threads_for,
)

EPS = 1e-4

FEW_ROWS, FEW_WEIGHTS = 64, 2**17
"""Fewer rows with more weights are left to torch: C would spend its time on packing them."""


def norm_silu(x: Tensor, scale: Tensor) -> Tensor:
    """Return SiLU(RMSNorm(x)) over the last axis, (…, D) → (…, D)."""
    return F.silu(F.rms_norm(x, scale.shape, scale, EPS))


def reference(x: Tensor, layers: Stack) -> Tensor:
    """Return rows x (R, in) after all layers, (R, out)."""
    for weight, bias, scale in layers:
        x = linear(x, weight, bias)
        if scale is not None:
            x = norm_silu(x, scale)
    return x


def call(x: Tensor, layers: Stack) -> Tensor:
    if torch.is_grad_enabled():
        return _MLP.apply(None, x, *(tensor for layer in layers for tensor in layer))
    y = x.new_empty(len(x), len(layers[-1].bias))
    _run(_forward, x, layers, y=y)
    return y


def supports(x: Tensor, layers: Stack) -> bool:
    """Return whether C knows the layers, and packing their weights pays for so many rows."""
    if not layers or rounds() or not fits(x, *(tensor for layer in layers for tensor in layer)):
        return False
    many = len(x) >= FEW_ROWS or sum(layer.weight.numel() for layer in layers) <= FEW_WEIGHTS
    return many and all(layer.scale is not None for layer in layers[:-1])


def mlp_from_activations(x: Tensor, layers: Stack, activations: Activations) -> Tensor:
    """Return what the layers made of rows x in a pass that kept its activations, with gradients."""
    return _MLP.apply(activations, x, *(tensor for layer in layers for tensor in layer))


class _Struct(Struct, name="mlp"):
    """See c/mlp.c."""

    _fields_ = (
        *members(INT64, "threads rows layers x_stride grad_stride numbers"),
        ("layer", ctypes.POINTER(CLayer)),
        *members(POINTER, "x grad grad_x sums"),
    )


_forward, _backward = (Function(name, ctypes.POINTER(_Struct)) for name in ("mlp", "mlp_backward"))


def _run(
    function: Function,
    x: Tensor,
    layers: Stack,
    kept: Tensor | None = None,
    y: Tensor | None = None,
    grad: Tensor | None = None,
    grad_x: Tensor | None = None,
    sums: Tensor | None = None,
) -> None:
    memory, tensors = CallMemory(x), {"x": x, "grad": grad, "grad_x": grad_x, "sums": sums}
    function(
        _Struct(
            threads=_threads(x, layers), rows=len(x), layers=len(layers),
            x_stride=x.stride(0), grad_stride=0 if grad is None else grad.stride(0),
            numbers=0 if sums is None else sums.shape[1], layer=memory.layers(layers, kept, y),
            **{name: tensor.data_ptr() for name, tensor in tensors.items() if tensor is not None},
        )
    )  # fmt: skip


def _threads(x: Tensor, layers: Stack) -> int:
    return threads_for(len(x), sum(layer.weight.numel() for layer in layers))


class _MLP(torch.autograd.Function):
    """x (R, in), then weight, bias and scale of every layer → (R, out).

    With `activations` all has been computed before.
    """

    @staticmethod
    def forward(ctx: Any, activations: Activations | None, x: Tensor, *parameters: Tensor) -> Tensor:
        if activations is None:
            layers, rows = _layers(parameters), len(x)
            y = x.new_empty(rows, len(layers[-1].bias))
            activations = Activations(x.new_empty(kept_numbers(layers, rows)), y)
            _run(_forward, x, layers, activations.kept, y)
        ctx.save_for_backward(x, activations.kept, *parameters)
        return activations.y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        # Once: under checkpointing the first look computes them anew, and a second gets none.
        x, kept, *parameters = ctx.saved_tensors
        given = [tensor for tensor in parameters if tensor is not None]
        sizes = [tensor.numel() for tensor in given]
        layers = _layers(parameters)
        sums = x.new_zeros(_threads(x, layers), sum(sizes))  # each thread adds up its own
        grad_x = x.new_empty(x.shape) if ctx.needs_input_grad[1] else None
        _run(_backward, x, layers, kept, grad=grad.contiguous(), grad_x=grad_x, sums=sums)
        total = sums[0] if len(sums) == 1 else sums.sum(0)
        gradients = [g.view_as(tensor) for g, tensor in zip(total.split(sizes), given, strict=True)]
        return (None, grad_x, *gradients, *[None] * (len(parameters) - len(given)))


def _layers(parameters: Sequence[Any]) -> Stack:
    threes = (parameters[i : i + 3] for i in range(0, len(parameters), 3))
    return [Affine(*three) if three[2] is None else Layer(*three) for three in threes]


mlp = Kernel("mlp", reference, call, supports)

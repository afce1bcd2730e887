"""Stacks of Linear → RMSNorm → SiLU, what every network here is made of.

    y = SiLU(scale·x̂);   x̂ = x/rms;   rms² = mean(x²) + ε

As separate operations norm and SiLU cost more than the matrix product before them on a CPU. In C (c/mlp.c)
some rows go through all layers before the next ones, forward and back, and nothing is recorded between
layers: what the gradients need is x̂, 1/rms and y. On an AMD server (AVX2) that takes .7 to .99 × as long as
oneDNN's products with C between them, for weights from 64 × 256 to 512 × 5120 and 1,000 to 8,000 rows.
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
from qdreamer.native.structs import LEAST, Activations, CallMemory, CLayer, Layer

EPS = 1e-4


def norm_silu(x: Tensor, scale: Tensor) -> Tensor:
    """Return SiLU(RMSNorm(x)) over the last axis, (…, D) → (…, D)."""
    return F.silu(F.rms_norm(x, scale.shape, scale, EPS))


def reference(x: Tensor, layers: Sequence[Layer]) -> Tensor:
    """Return rows x (R, in) after all layers, (R, out)."""
    for weight, bias, scale in layers:
        x = norm_silu(linear(x, weight, bias), scale)
    return x


def call(x: Tensor, layers: Sequence[Layer]) -> Tensor:
    if torch.is_grad_enabled():
        return _MLP.apply(None, x, *(tensor for layer in layers for tensor in layer))
    out = x.new_empty(len(x), len(layers[-1].bias))
    _run(_forward, x, layers, [(None, None, None)] * (len(layers) - 1) + [(None, None, out)])
    return out


def supports(x: Tensor, layers: Sequence[Layer]) -> bool:
    return bool(layers) and fits(x, *layers[0]) and not rounds()


def mlp_from_activations(x: Tensor, layers: Sequence[Layer], activations: Activations) -> Tensor:
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
    layers: Sequence[Layer],
    activations: Sequence[Sequence[Tensor | None]],
    **gradients: Tensor | None,
) -> None:
    memory = CallMemory(x)
    work = len(x) * sum(layer.weight.numel() for layer in layers)
    grad, sums = gradients.get("grad"), gradients.get("sums")
    function(
        _Struct(
            threads=torch.get_num_threads() if work >= LEAST else 1, rows=len(x), layers=len(layers),
            x_stride=x.stride(0), grad_stride=0 if grad is None else grad.stride(0),
            numbers=0 if sums is None else sums.shape[1], layer=memory.layers(layers, activations),
            x=x.data_ptr(), **{name: t.data_ptr() for name, t in gradients.items() if t is not None},
        )
    )  # fmt: skip


class _MLP(torch.autograd.Function):
    """x (R, in), then weight, bias and scale of every layer → (R, out).

    With `activations` all has been computed before.
    """

    @staticmethod
    def forward(ctx: Any, activations: Activations | None, x: Tensor, *parameters: Tensor) -> Tensor:
        if activations is None:
            layers, rows = _layers(parameters), len(x)
            widths = ((len(layer.bias), 1, len(layer.bias)) for layer in layers)
            activations = [tuple(x.new_empty(rows, width) for width in three) for three in widths]
            _run(_forward, x, layers, activations)
        kept = [tensor for three in activations for tensor in three]
        ctx.save_for_backward(x, *parameters, *kept[:-1])
        return kept[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        # Once: under checkpointing the first look computes them anew, and a second gets none.
        x, *kept = ctx.saved_tensors
        count = (len(kept) + 1) // 2
        parameters, kept = kept[:count], [*kept[count:], None]
        activations = [kept[i : i + 3] for i in range(0, count, 3)]
        sizes = [tensor.numel() for tensor in parameters]
        sums = x.new_zeros(torch.get_num_threads(), sum(sizes))  # each thread adds up its own
        grad_x = torch.empty_like(x) if ctx.needs_input_grad[1] else None
        _run(_backward, x, _layers(parameters), activations, grad=grad.contiguous(), grad_x=grad_x, sums=sums)
        total = sums[0] if len(sums) == 1 else sums.sum(0)
        gradients = zip(total.split(sizes), parameters, strict=True)
        return (None, grad_x, *(g.view_as(parameter) for g, parameter in gradients))


def _layers(parameters: Sequence[Tensor]) -> list[Layer]:
    return [Layer(*parameters[i : i + 3]) for i in range(0, len(parameters), 3)]


mlp = Kernel("mlp", reference, call, supports)

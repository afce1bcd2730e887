"""Stacks of Linear → RMSNorm → SiLU, what every network here is made of.

    y = SiLU(scale·x̂);   x̂ = x/rms;   rms² = mean(x²) + ε

As separate operations norm and SiLU cost more than the matrix product before them on a CPU. In C they are one
pass over the rows, and a stack records nothing between its layers: what the gradients need is x̂ and 1/rms.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from qdreamer.native.dispatch import INT32, INT64, TENSOR, Function, Kernel, fits
from qdreamer.native.products import affine, linear, product

EPS = 1e-4

ELEMENTS_AT_ONCE = 2**17
"""Activations of one layer that are treated together: with those of its gradient they fit the L2 cache."""

_forward = Function("norm_silu", INT32, INT64, INT64, TENSOR, INT64, *[TENSOR] * 5, INT64)
_backward = Function("norm_silu_backward", INT32, INT64, INT64, *[TENSOR] * 6)


class Layer(NamedTuple):
    """The weights of SiLU(RMSNorm(weight·x + bias))."""

    weight: Tensor  # (out, in)
    bias: Tensor  # (out,)
    scale: Tensor  # (out,), of the norm


Activations = Sequence[tuple[Tensor, Tensor, Tensor]]
"""x̂ (R, out), 1/rms (R, 1) and y (R, out) of every layer of a stack, as its gradients need them."""


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
    for y, part in zip(_parts(x, out), _parts(out, out), strict=True):
        for weight, bias, scale in layers[:-1]:
            y = affine(y, weight)
            _values(y, bias, scale, y)
        weight, bias, scale = layers[-1]
        _values(affine(y, weight), bias, scale, part)
    return out


def supports(x: Tensor, layers: Sequence[Layer]) -> bool:
    return bool(layers) and fits(x, *layers[0])


def mlp_from_activations(x: Tensor, layers: Sequence[Layer], activations: Activations) -> Tensor:
    """Return what the layers made of rows x in a pass that kept its activations, with gradients."""
    return _MLP.apply(activations, x, *(tensor for layer in layers for tensor in layer))


def _values(x: Tensor, bias: Tensor, scale: Tensor, out: Tensor) -> None:
    """Write SiLU(RMSNorm(x + bias)) of rows x (R, D) to `out` (R, D), which may be x."""
    threads = torch.get_num_threads()
    _forward(threads, *x.shape, x, x.stride(0), bias, scale, None, None, out, out.stride(0))


def _activations(
    x: Tensor, bias: Tensor, scale: Tensor, out: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return x̂ (R, D), 1/rms (R, 1) and y (R, D) of x + bias; x̂ takes the memory of x (R, D)."""
    rows, width = x.shape
    rstd = x.new_empty(rows, 1)
    y = torch.empty_like(x) if out is None else out
    _forward(torch.get_num_threads(), rows, width, x, width, bias, scale, x, rstd, y, y.stride(0))
    return x, rstd, y


def _backward_rows(grad: Tensor, x_hat: Tensor, rstd: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x (R, D), scale and a bias before x (D,), given that of y (R, D)."""
    rows, width = x_hat.shape
    threads = torch.get_num_threads()
    sums = x_hat.new_zeros(threads, 2, width)  # each thread adds up its own
    grad_x = torch.empty_like(x_hat)
    _backward(threads, rows, width, grad.contiguous(), x_hat, rstd, scale, grad_x, sums)
    grad_scale, grad_bias = sums.sum(0)
    return grad_x, grad_scale, grad_bias


class _MLP(torch.autograd.Function):
    """x (R, in), then weight, bias and scale of every layer → (R, out); some rows after others.

    With `activations` all has been computed before.
    """

    @staticmethod
    def forward(ctx: Any, activations: Activations | None, x: Tensor, *parameters: Tensor) -> Tensor:
        layers = list(zip(parameters[::3], parameters[1::3], parameters[2::3], strict=True))
        saved: list[Tensor] = []
        if activations is None:
            out = x.new_empty(len(x), len(parameters[-1]))
            for y, part in zip(_parts(x, out), _parts(out, out), strict=True):
                for i, (weight, bias, scale) in enumerate(layers):
                    given, to = y, part if i == len(layers) - 1 else None
                    x_hat, rstd, y = _activations(affine(given, weight), bias, scale, to)
                    saved += [given, x_hat, rstd]
        else:
            out = activations[-1][2]
            inputs = [x, *(y for _, _, y in activations[:-1])]
            tensors = [
                tensor
                for given, (x_hat, rstd, _) in zip(inputs, activations, strict=True)
                for tensor in (given, x_hat, rstd)
            ]
            for parts in zip(*(_parts(tensor, out) for tensor in tensors), strict=True):
                saved += parts
        ctx.save_for_backward(*parameters, *saved)
        ctx.parameters = len(parameters)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        parameters, saved = ctx.saved_tensors[: ctx.parameters], ctx.saved_tensors[ctx.parameters :]
        gradients: list[Tensor] = []
        grad_x = []
        for part, g in enumerate(_parts(grad, grad)):
            here: list[Tensor] = []
            for i in range(len(parameters) - 3, -1, -3):
                x, x_hat, rstd = saved[part * len(parameters) + i :][:3]
                g, grad_scale, grad_bias = _backward_rows(g, x_hat, rstd, parameters[i + 2])
                here = [product(g.t(), x), grad_bias, grad_scale, *here]
                if i or ctx.needs_input_grad[1]:
                    g = product(g, parameters[i])
            if ctx.needs_input_grad[1]:
                grad_x.append(g)
            if gradients:
                torch._foreach_add_(gradients, here)
            else:
                gradients = here
        return (None, torch.cat(grad_x) if grad_x else None, *gradients)


def _parts(x: Tensor, like: Tensor) -> tuple[Tensor, ...]:
    """Cut x (R, ·) into rows of which `like` (R, ·) has at most ELEMENTS_AT_ONCE elements."""
    return x.split(max(1, ELEMENTS_AT_ONCE // like.shape[1]))


mlp = Kernel("mlp", reference, call, supports)

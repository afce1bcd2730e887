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

from qdreamer.native.dispatch import TENSOR, Function, Kernel, fits
from qdreamer.native.library import INT32, INT64
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


Activations = Sequence[Sequence[Tensor]]
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
    return _pass(x, layers, None)


def supports(x: Tensor, layers: Sequence[Layer]) -> bool:
    return bool(layers) and fits(x, *layers[0])


def mlp_from_activations(x: Tensor, layers: Sequence[Layer], activations: Activations) -> Tensor:
    """Return what the layers made of rows x in a pass that kept its activations, with gradients."""
    return _MLP.apply(activations, x, *(tensor for layer in layers for tensor in layer))


def _pass(x: Tensor, layers: Sequence[Layer], kept: list[Tensor] | None) -> Tensor:
    """Return rows x (R, in) after all layers; some rows go through all of them before the next ones.

    `kept`, if it is wanted, gets the input, x̂ and 1/rms of every layer, for these rows after those.
    """
    out = x.new_empty(len(x), len(layers[-1].bias))
    threads, last = torch.get_num_threads(), len(layers) - 1
    for y, part in zip(_parts(x, out), _parts(out, out), strict=True):
        for i, (weight, bias, scale) in enumerate(layers):
            x_hat, rstd = affine(y, weight), None  # x̂ takes the memory of x
            if kept is not None:
                rstd = y.new_empty(len(y), 1)
                kept += [y, x_hat, rstd]
            y = part if i == last else x_hat if kept is None else torch.empty_like(x_hat)
            _forward(
                threads, *x_hat.shape, x_hat, x_hat.stride(0), bias, scale,
                None if kept is None else x_hat, rstd, y, y.stride(0),
            )  # fmt: skip
    return out


class _MLP(torch.autograd.Function):
    """x (R, in), then weight, bias and scale of every layer → (R, out); some rows after others.

    With `activations` all has been computed before.
    """

    @staticmethod
    def forward(ctx: Any, activations: Activations | None, x: Tensor, *parameters: Tensor) -> Tensor:
        saved: list[Tensor] = []
        if activations is None:
            out = _pass(x, [Layer(*parameters[i : i + 3]) for i in range(0, len(parameters), 3)], saved)
        else:
            out = activations[-1][2]
            inputs = [x, *(y for _, _, y in activations[:-1])]
            whole = [
                t for y, (x_hat, rstd, _) in zip(inputs, activations, strict=True) for t in (y, x_hat, rstd)
            ]
            for parts in zip(*(_parts(tensor, out) for tensor in whole), strict=True):
                saved += parts
        ctx.save_for_backward(*parameters, *saved)
        ctx.parameters = len(parameters)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        count, threads = ctx.parameters, torch.get_num_threads()
        # Once: under checkpointing the first look computes them anew, and a second gets none.
        kept = ctx.saved_tensors
        parameters, saved = kept[:count], kept[count:]
        gradients: list[Tensor] = []
        grad_x = []
        for part, g in enumerate(_parts(grad, grad)):
            here: list[Tensor] = []
            for i in range(count - 3, -1, -3):
                x, x_hat, rstd = saved[part * count + i :][:3]
                sums = x_hat.new_zeros(threads, 2, x_hat.shape[1])  # each thread adds up its own
                g_pre = torch.empty_like(x_hat)  # of what came before norm and SiLU
                _backward(threads, *x_hat.shape, g.contiguous(), x_hat, rstd, parameters[i + 2], g_pre, sums)
                g_scale, g_bias = sums.sum(0)
                here = [product(g_pre.t(), x), g_bias, g_scale, *here]
                g = product(g_pre, parameters[i]) if i or ctx.needs_input_grad[1] else g_pre
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

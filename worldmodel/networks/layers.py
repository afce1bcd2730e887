"""Layers that every network is made of: Linear → RMSNorm → SiLU (Hafner et al. 2025, Methods).

All weights start truncated-normal with variance 1/fan_in: a unit normal cut at ±2 has standard
deviation 0.8796, so the draws are scaled by 1.1368/√fan_in. Biases start at zero.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from qdreamer.native import kernels
from qdreamer.native.norm_silu import NORM_EPS, NormSiLU, dense_norm_silu, inverse_rms, norm_silu_backward
from qdreamer.native.products import Affine, affine, blockwise, product


def init_weight(weight: Tensor, fan_in: int, scale: float = 1.0) -> None:
    """Fill `weight` in place: truncated normal of standard deviation scale/√fan_in."""
    std = 1.1368 * scale / fan_in**0.5
    if scale == 0.0:
        nn.init.zeros_(weight)
    else:
        nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


class Linear(nn.Linear):
    """Affine map with the design's initialisation; `scale=0` starts the output at zero."""

    def __init__(self, in_features: int, out_features: int, scale: float = 1.0) -> None:
        self._scale = scale
        super().__init__(in_features, out_features)

    def reset_parameters(self) -> None:
        init_weight(self.weight, self.in_features, self._scale)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.in_features)
        if torch.is_grad_enabled():
            out: Tensor = Affine.apply(rows, self.weight, self.bias)
        else:
            out = affine(rows, self.weight, self.bias)
        return out.view(*x.shape[:-1], -1)


def init_random_bias(layer: nn.Linear, std: float) -> nn.Linear:
    """Start the biases of a layer that faces raw numbers at random instead of zero; returns it.

    RMSNorm of W·x without a bias depends on the direction of x alone: a cart at 1.5 and one at 2.3
    would look the same, and a one-dimensional action would be its sign.
    """
    nn.init.trunc_normal_(layer.bias, std=std, a=-2 * std, b=2 * std)
    return layer


class BlockLinear(nn.Module):
    """Block-diagonal affine map: g blocks, each (in/g → out/g), on inputs (…, in).

    Input and output are laid out block after block. Raises ValueError when the widths do not
    divide by the number of blocks.
    """

    def __init__(self, in_features: int, out_features: int, blocks: int, fan_in: int | None = None) -> None:
        super().__init__()
        if in_features % blocks or out_features % blocks:
            raise ValueError(f"widths {in_features}, {out_features} do not divide by {blocks} blocks")
        self.blocks = blocks
        self.weight = nn.Parameter(torch.empty(blocks, in_features // blocks, out_features // blocks))
        self.bias = nn.Parameter(torch.zeros(out_features))
        init_weight(self.weight, fan_in or in_features // blocks)

    def forward(self, x: Tensor) -> Tensor:
        return blockwise(x.reshape(-1, x.shape[-1]), self.weight, self.bias).view(*x.shape[:-1], -1)


class RMSNorm(nn.Module):
    """x/rms(x) with a learned scale, on the last axis (Zhang & Sennrich 2019), ε as in `norm_silu`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and kernels.fit(x):
            return _RMSNorm.apply(x, self.scale)
        if torch.is_grad_enabled():
            return F.rms_norm(x, self.scale.shape, self.scale, NORM_EPS)
        return x.mul(inverse_rms(x)).mul_(self.scale)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        x = x.contiguous()
        y, inverse = kernels.rms_norm(x, scale)
        ctx.save_for_backward(x, inverse, scale)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        return kernels.rms_norm_backward(grad.contiguous(), *ctx.saved_tensors)


Activations = list[tuple[Tensor, Tensor, Tensor]]
"""What the layers of a stack made of R rows: unit (R, units), inverse (R, 1) and y (R, units) of each."""


class MLP(nn.Sequential):
    """`layers` times Linear → RMSNorm → SiLU; (…, in) → (…, units).

    One autograd function for the whole stack: between its layers nothing is recorded.
    """

    def __init__(self, in_features: int, units: int, layers: int) -> None:
        parts: list[nn.Module] = []
        for i in range(layers):
            parts += [Linear(units if i else in_features, units), NormSiLU(units)]
        super().__init__(*parts)

    def layer(self, i: int) -> tuple[Linear, NormSiLU]:
        linear, norm = self[2 * i], self[2 * i + 1]
        assert isinstance(linear, Linear)
        assert isinstance(norm, NormSiLU)
        return linear, norm

    def forward(self, x: Tensor) -> Tensor:
        if not len(self):
            return x
        rows = x.reshape(-1, x.shape[-1])
        y = _Stack.apply(None, rows, *self.weights()) if torch.is_grad_enabled() else self._values(rows)
        return y.view(*x.shape[:-1], -1)

    def from_activations(self, x: Tensor, kept: Activations) -> Tensor:
        """`forward` of a pass that has been made already, by what it made."""
        y: Tensor = _Stack.apply(kept, x.reshape(-1, x.shape[-1]), *self.weights())
        return y.view(*x.shape[:-1], -1)

    def weights(self) -> list[Tensor]:
        """Weight, bias and scale of every layer: `parameters()` without its walk through all modules."""
        layers = [self.layer(i) for i in range(len(self) // 2)]
        return [tensor for linear, norm in layers for tensor in (linear.weight, linear.bias, norm.scale)]

    def _values(self, x: Tensor) -> Tensor:
        parameters = self.weights()
        out = x.new_empty(len(x), len(parameters[-1]))
        for y, part in zip(_parts(x, out), _parts(out, out), strict=True):
            for i in range(0, len(parameters), 3):
                weight, bias, scale = parameters[i : i + 3]
                last = i == len(parameters) - 3
                y, _, _ = dense_norm_silu(y, weight, bias, scale, part if last else None, keep=False)
        return out


ELEMENTS_AT_ONCE = 2**17
"""Activations of one layer that are treated together: with those of its gradient they fit the L2 cache."""


class _Stack(torch.autograd.Function):
    """x (R, in), then weight, bias and scale of every layer → (R, units); some rows after others.

    With `kept` all has been computed before.
    """

    @staticmethod
    def forward(ctx: Any, kept: Activations | None, x: Tensor, *parameters: Tensor) -> Tensor:
        layers = list(zip(parameters[::3], parameters[1::3], parameters[2::3], strict=True))
        out = x.new_empty(len(x), len(parameters[-1])) if kept is None else kept[-1][2]
        saved: list[Tensor] = []
        if kept is None:
            for y, part in zip(_parts(x, out), _parts(out, out), strict=True):
                for i, (weight, bias, scale) in enumerate(layers):
                    given, last = y, i == len(layers) - 1
                    y, unit, inverse = dense_norm_silu(given, weight, bias, scale, part if last else None)
                    saved += [given, unit, inverse]
        else:
            given, tensors = x, []
            for unit, inverse, y in kept:
                tensors += [given, unit, inverse]
                given = y
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
                x, unit, inverse = saved[part * len(parameters) + i :][:3]
                g, grad_scale, grad_bias = norm_silu_backward(g, unit, inverse, parameters[i + 2])
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
    """x (R, ·) cut into rows of which `like` (R, ·) has at most ELEMENTS_AT_ONCE elements."""
    return x.split(max(1, ELEMENTS_AT_ONCE // like.shape[1])) if x.is_cpu else (x,)

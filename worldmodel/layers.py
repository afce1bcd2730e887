"""Layers that every network is made of: Linear → RMSNorm → SiLU (Hafner et al. 2025, Methods).

All weights start truncated-normal with variance 1/fan_in: a unit normal cut at ±2 has standard
deviation 0.8796, so the draws are scaled by 1.1368/√fan_in. Biases start at zero.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

NORM_EPS = 1e-4


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


def spread_biases(layer: nn.Linear, std: float) -> nn.Linear:
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
        if self.blocks == 1:
            return torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), self.weight[0]).view(*x.shape[:-1], -1)
        rows = x.reshape(-1, self.blocks, self.weight.shape[1]).transpose(0, 1)  # (g, R, in/g)
        out = torch.bmm(rows, self.weight).transpose(0, 1)  # (R, g, out/g)
        return out.reshape(*x.shape[:-1], -1) + self.bias


class _NormSiLU(torch.autograd.Function):
    """SiLU(RMSNorm(x)) with a hand-written backward: fewer operations than autograd's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        inverse = torch.rsqrt(x.square().mean(-1, keepdim=True).add_(NORM_EPS))  # (…, 1)
        unit = x * inverse  # (…, D)
        scaled = unit * scale
        ctx.save_for_backward(unit, inverse, scale, scaled)
        return F.silu(scaled)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        unit, inverse, scale, scaled = ctx.saved_tensors
        grad = torch.ops.aten.silu_backward(grad, scaled)
        grad_scale = (grad * unit).flatten(0, -2).sum(0)
        grad = grad * scale
        # d unit/d x is (I − unit·unitᵀ/D)/rms; ε only enters through `inverse`.
        grad_x = torch.addcmul(grad, unit, (grad * unit).mean(-1, keepdim=True), value=-1.0)
        return grad_x.mul_(inverse), grad_scale


class NormSiLU(nn.Module):
    """RMSNorm (ε = 1e-4, learned scale) followed by SiLU, on the last axis."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return _NormSiLU.apply(x, self.scale)
        return F.silu(F.rms_norm(x, self.scale.shape, self.scale, NORM_EPS))


class MLP(nn.Sequential):
    """`layers` times Linear → RMSNorm → SiLU; (…, in) → (…, units)."""

    def __init__(self, in_features: int, units: int, layers: int) -> None:
        parts: list[nn.Module] = []
        for i in range(layers):
            parts += [Linear(units if i else in_features, units), NormSiLU(units)]
        super().__init__(*parts)

"""Layers that every network is made of: Linear → RMSNorm → SiLU (DreamerV3).

All weights start truncated-normal with variance 1/fan_in: a unit normal cut at ±2 has standard
deviation 0.8796, so the draws are scaled by 1.1368/√fan_in. Biases start at zero.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qdreamer import native
from qdreamer.native.mlp import EPS, norm_silu
from qdreamer.native.products import blockwise, linear


def init_weight(weight: Tensor, fan_in: int, scale: float = 1.0) -> None:
    """Fill `weight` in place: truncated normal of standard deviation scale/√fan_in."""
    std = 1.1368 * scale / fan_in**0.5
    if scale == 0.0:
        nn.init.zeros_(weight)
    else:
        nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


def scale_gradient(x: Tensor, scale: float) -> Tensor:
    """Return x itself, to the bit, with its gradient times `scale`: s·x + (1 − s)·sg(x)."""
    return x if scale == 1.0 else x.detach() + scale * (x - x.detach())


class Linear(nn.Linear):
    """Affine map with DreamerV3's initialisation; `scale=0` starts the output at zero."""

    def __init__(self, in_features: int, out_features: int, scale: float = 1.0) -> None:
        self._scale = scale
        super().__init__(in_features, out_features)

    def reset_parameters(self) -> None:
        init_weight(self.weight, self.in_features, self._scale)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        out = linear(x.reshape(-1, self.in_features), self.weight, self.bias)
        return out.view(*x.shape[:-1], -1)


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
    """x/rms(x) with a learned scale, on the last axis (Zhang & Sennrich 2019), ε = 1e-4."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.scale.shape, self.scale, EPS)


class NormSiLU(RMSNorm):
    """RMSNorm followed by SiLU, on the last axis."""

    def forward(self, x: Tensor) -> Tensor:
        return norm_silu(x, self.scale)


class MLP(nn.Sequential):
    """`layers` times Linear → RMSNorm → SiLU; (…, in) → (…, units).

    The first biases start with a deviation of `bias_std`, which a layer that faces raw numbers needs: RMSNorm
    of W·x without a bias depends on the direction of x alone. A cart at 1.5 and one at 2.3 would look the
    same, and a one-dimensional action would be its sign.
    """

    def __init__(self, in_features: int, units: int, layers: int, bias_std: float = 0.0) -> None:
        parts: list[nn.Module] = []
        for i in range(layers):
            linear = Linear(units if i else in_features, units)
            if bias_std and not i:
                nn.init.trunc_normal_(linear.bias, std=bias_std, a=-2 * bias_std, b=2 * bias_std)
            parts += [linear, NormSiLU(units)]
        super().__init__(*parts)
        self.width = units if layers else in_features

    def layers(self) -> list[native.Layer]:
        """Return the weights of every layer, without a walk through all modules."""
        parts: list[Any] = list(self)
        pairs = zip(parts[::2], parts[1::2], strict=True)
        return [native.Layer(linear.weight, linear.bias, norm.scale) for linear, norm in pairs]

    def forward(self, x: Tensor) -> Tensor:
        if not len(self):
            return x
        return native.mlp(x.reshape(-1, x.shape[-1]), self.layers()).view(*x.shape[:-1], -1)


class MLPHead(nn.Module):
    """An MLP and a linear map of what it makes; (…, in) → (…, out)."""

    def __init__(
        self, in_features: int, units: int, layers: int, out_features: int, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.body = MLP(in_features, units, layers)
        self.out = Linear(units if layers else in_features, out_features, scale)

    def forward(self, x: Tensor) -> Any:  # a tensor here, a distribution in subclasses
        layers = self.body.layers()
        if not layers:  # there are none, or something else has taken their place
            return self.out(self.body(x))
        last = native.Affine(self.out.weight, self.out.bias)
        return native.mlp(x.reshape(-1, x.shape[-1]), [*layers, last]).view(*x.shape[:-1], -1)

    def from_activations(self, x: Tensor, activations: native.Activations) -> Tensor:
        """Return the output of a pass whose MLP's activations are known already, with gradients."""
        y = native.mlp_from_activations(x.reshape(-1, x.shape[-1]), self.body.layers(), activations)
        return self.out(y).view(*x.shape[:-1], -1)

    def native_weights(self) -> native.HeadWeights:
        """Return what C needs to run this head."""
        return native.HeadWeights(self.body.layers(), self.out.weight, self.out.bias)

"""RMSNorm followed by SiLU, the non-linearity of every network here, with hand-written gradients.

    rms² = mean(x²) + ε;   unit = x/rms;   y = SiLU(scale·unit)

As separate autograd operations the pair costs more than the matrix product before it on a CPU.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from qdreamer.native import kernels
from qdreamer.native.products import affine

NORM_EPS = 1e-4


def dense_norm_silu(
    x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, out: Tensor | None = None, keep: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """`norm_silu` of the affine map of rows x (R, in); without `keep` only y is of use. No gradients."""
    if kernels.fit(x):
        return kernels.norm_silu(affine(x, weight), bias, scale, out, keep)
    return norm_silu(affine(x, weight, bias), scale, out)


def norm_silu(x: Tensor, scale: Tensor, out: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """SiLU(RMSNorm(x)) over the last axis, written to `out` if given; overwrites x.

    Returns:
        y (…, D); unit (…, D), x/rms in the memory of x; inverse (…, 1), 1/rms.
    """
    inverse = inverse_rms(x)
    unit = x.mul_(inverse)
    return F.silu(torch.mul(unit, scale, out=out), inplace=True), unit, inverse


def inverse_rms(x: Tensor) -> Tensor:
    """1/rms(x) along the last axis, (…, D) → (…, 1)."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return torch.addcmul(_epsilon(x.dtype, x.device), norm, norm, value=1.0 / x.shape[-1]).rsqrt_()  # (…, 1)


@cache
def _epsilon(dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.full((), NORM_EPS, dtype=dtype, device=device)


def norm_silu_backward(
    grad: Tensor, unit: Tensor, inverse: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x (R, D), scale (D,) and a bias before x (D,), given that of y (R, D)."""
    if kernels.fit(unit):
        sums = kernels.make_sums(2, unit.shape[-1])
        grad_x = kernels.norm_silu_backward(grad, unit, inverse, scale, sums)
        grad_scale, grad_bias = sums.sum(0)
        return grad_x, grad_scale, grad_bias
    scaled = torch.ops.aten.silu_backward(grad, unit * scale)  # with respect to scale·unit
    along = scaled * unit
    grad_scale = along.sum(0)
    # d unit/d x is (I − unit·unitᵀ/D)/rms; ε only enters through `inverse`.
    mean = torch.mv(along, scale).div_(unit.shape[-1]).unsqueeze(-1)  # (R, 1)
    grad_x = scaled.mul_(scale).addcmul_(unit, mean, value=-1.0).mul_(inverse)
    return grad_x, grad_scale, grad_x.sum(0)


class _NormSiLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        y, unit, inverse = norm_silu(x.clone(memory_format=torch.contiguous_format), scale)
        ctx.save_for_backward(unit, inverse, scale)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        unit, inverse, scale = ctx.saved_tensors
        width = unit.shape[-1]
        grad_x, grad_scale, _ = norm_silu_backward(
            grad.reshape(-1, width), unit.view(-1, width), inverse.view(-1, 1), scale
        )
        return grad_x.view_as(unit), grad_scale


class NormSiLU(nn.Module):
    """RMSNorm (ε = 1e-4, learned scale) followed by SiLU, on the last axis."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return _NormSiLU.apply(x, self.scale)
        return F.silu((x * inverse_rms(x)).mul_(self.scale), inplace=True)

    def values(self, x: Tensor) -> Tensor:
        """The same without gradients, in the memory of x (R, D)."""
        if kernels.fit(x):
            return kernels.norm_silu(x, None, self.scale, None, keep=False)[0]
        return F.silu(x.mul_(inverse_rms(x)).mul_(self.scale), inplace=True)

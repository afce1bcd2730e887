"""A step of LaProp (Ziyin et al. 2020) after adaptive gradient clipping, over all parameters of a model.

    g ← g·min(1, clip·max(pmin, ‖θ‖)/‖g‖)          (Brock et al. 2021, eq. 3; per tensor, as in DreamerV3)
    v ← β₂v + (1 − β₂)g²;   m ← β₁m + (1 − β₁)·g/(c√v + ε);   θ ← θ − rate·m

Tensors are many and small, and torch makes a pass over memory for each operation; C makes one for all.
"""

import torch
from torch import Tensor

from qdreamer.native.dispatch import Function, Kernel, fits
from qdreamer.native.library import FLOAT, INT32, INT64, POINTER

Tensors = list[Tensor]

_laprop = Function("laprop", INT32, INT64, *[POINTER] * 5, *[FLOAT] * 7)


def clipped(params: Tensors, grads: Tensors, clip: float, pmin: float) -> Tensors:
    """Return each gradient scaled so that ‖g‖ ≤ clip·max(pmin, ‖θ‖)."""
    norms = torch.stack(torch._foreach_norm(grads)).clamp(min=1e-30)
    limits = torch.stack(torch._foreach_norm(params)).clamp_(min=pmin).mul_(clip)
    return list(torch._foreach_mul(grads, list((limits / norms).clamp_(max=1.0).unbind())))


@torch.no_grad()
def reference(
    params: Tensors, grads: Tensors, seconds: Tensors, momenta: Tensors,
    clip: float, pmin: float, beta1: float, beta2: float, correction: float, epsilon: float, rate: float,
) -> None:  # fmt: skip
    """Move the parameters θ, their second moments v and momenta m in place; gradients stay.

    `clip` 0 clips nothing; `correction` is c.
    """
    if clip > 0.0:
        grads = clipped(params, grads, clip, pmin)
    torch._foreach_mul_(seconds, beta2)
    torch._foreach_addcmul_(seconds, grads, grads, 1.0 - beta2)
    denominators = torch._foreach_sqrt(seconds)
    torch._foreach_mul_(denominators, correction)
    torch._foreach_add_(denominators, epsilon)
    torch._foreach_lerp_(momenta, torch._foreach_div(grads, denominators), 1.0 - beta1)
    torch._foreach_add_(params, momenta, alpha=-rate)


def supports(params: Tensors, grads: Tensors, seconds: Tensors, momenta: Tensors, *numbers: float) -> bool:
    tensors = [*params, *grads, *seconds, *momenta]
    return fits(*tensors) and all(x.is_contiguous() for x in tensors)


def call(params: Tensors, grads: Tensors, seconds: Tensors, momenta: Tensors, *numbers: float) -> None:
    count = len(params)
    sizes = (INT64 * count)(*(x.numel() for x in params))
    places = [(POINTER * count)(*(x.data_ptr() for x in xs)) for xs in (params, grads, seconds, momenta)]
    _laprop(torch.get_num_threads(), count, sizes, *places, *numbers)


laprop = Kernel("laprop", reference, call, supports)

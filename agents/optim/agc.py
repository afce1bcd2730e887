"""Adaptive gradient clipping (Brock et al. 2021, eq. 3; per tensor, as in DreamerV3)."""

import torch
from torch import Tensor


@torch.no_grad()
def clip_gradients_(
    parameters: list[Tensor], gradients: list[Tensor], clip: float, pmin: float
) -> list[Tensor]:
    """Scale each gradient so that ‖g‖ ≤ clip · max(pmin, ‖w‖), in place; return the norms before.

    Tensors are clipped whole, not row by row. All parameters of one device go in one pass.
    """
    norms = torch._foreach_norm(gradients)
    limits = torch.stack(torch._foreach_norm(parameters)).clamp_(min=pmin).mul_(clip)
    factors = (limits / torch.stack(norms).clamp(min=1e-30)).clamp_(max=1.0)
    torch._foreach_mul_(gradients, list(factors.unbind()))
    return list(norms)

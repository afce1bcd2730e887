"""Exponential moving averages of weights."""

import torch
from torch import Tensor, nn

from qdreamer.native import kernels


@torch.no_grad()
def ema_update(average: nn.Module, module: nn.Module, rate: float) -> None:
    """average ← (1 − rate)·average + rate·module, for all parameters of two modules of one kind."""
    averages: list[Tensor] = list(average.parameters())
    values: list[Tensor] = list(module.parameters())
    if kernels.fit_all(averages, values):
        kernels.lerp_(averages, values, rate)
    else:
        torch._foreach_lerp_(averages, values, rate)

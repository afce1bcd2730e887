"""Symmetric logarithm and its inverse (Hafner et al. 2023, eq. 9)."""

import torch
from torch import Tensor


def symlog(x: Tensor) -> Tensor:
    """sign(x) ln(|x| + 1): compresses large values, is near the identity around 0."""
    return torch.sign(x) * torch.log1p(torch.abs(x))


def symexp(x: Tensor) -> Tensor:
    """sign(x) (exp|x| − 1), the inverse of `symlog`."""
    return torch.sign(x) * torch.expm1(torch.abs(x))

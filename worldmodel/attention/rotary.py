"""Rotary phases: what a position adds to a query or a key (Su et al. 2021, RoFormer, eq. 34).

The features of a head are d/2 complex modes, feature i paired with feature i + d/2. At position t,
mode i has turned by t·base^(−2i/d), so the product of a query and a key knows only the distance of
their positions. For `coherent` and `born` this is the free evolution α_i → α_i e^{iω_i t}.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Phases(NamedTuple):
    """Of some positions; queries, keys and all layers share them."""

    cos: Tensor  # (N, d) or (B, 1, N, d): both features of a mode turn by the same angle
    sin: Tensor  # likewise, with the sign that rotation gives it: −sin for the first, sin for the second


def phases(positions: Tensor, width: int, dtype: torch.dtype, base: float = 10_000.0) -> Phases:
    """Phases of integer positions (N,) or (B, N) for heads of `width` features.

    Angles are taken in float64: float32 would be wrong by 0.01 rad at position 10⁵.
    Raises ValueError when `width` is odd.
    """
    if width % 2:
        raise ValueError(f"rotary phases need an even head width, not {width}: change embed_dim or num_heads")
    exponents = torch.arange(0, width, 2, device=positions.device, dtype=torch.float64) / width
    angles = positions.double().unsqueeze(-1) * base**-exponents  # (…, N, d/2)
    if positions.dim() > 1:
        angles = angles.unsqueeze(-3)  # (B, 1, N, d/2)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    return Phases(torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1))


def rotate_by(x: Tensor, phases: Phases) -> Tensor:
    """x (B, h, N, d), its modes turned by the phases of N positions."""
    return torch.addcmul(x * phases.cos, x.roll(x.shape[-1] // 2, -1), phases.sin)


def rotate(x: Tensor, positions: Tensor, base: float = 10_000.0) -> Tensor:
    """x (B, h, N, d) at integer positions (N,) or (B, N). Raises ValueError when d is odd."""
    return rotate_by(x, phases(positions, x.shape[-1], x.dtype, base))

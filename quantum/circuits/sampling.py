"""Drawing basis states from probabilities."""

import torch
from torch import Tensor


def generator(seed: int) -> torch.Generator:
    """A generator of its own for one job."""
    return torch.Generator().manual_seed(seed)


def draw(probabilities: Tensor, shots: int, source: torch.Generator) -> Tensor:
    """Indices (R, S), int64, from weights (R, N) that need not be normalised.

    By inverting the distribution function: S·log N per row after one cumulative sum; weights of 0
    are never drawn. Raises ValueError where a row has no weight.
    """
    cumulative = probabilities.cumsum(-1, dtype=torch.float64)  # float32 would lose small weights
    total = cumulative[:, -1:]
    if not (torch.isfinite(total) & (total > 0)).all():
        raise ValueError("probabilities must be finite and not all 0")
    uniform = torch.rand(len(total), shots, dtype=torch.float64, generator=source) * total
    # A product may round up to the total, behind which there is nothing.
    uniform = torch.minimum(uniform, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, uniform, right=True)

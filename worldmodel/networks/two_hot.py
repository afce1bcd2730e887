"""Scalars as a categorical over exponentially spaced bins (Hafner et al. 2023, eqs. 11–13)."""

import torch
from torch import Tensor

from qdreamer import native
from qdreamer.worldmodel.networks.symlog import symexp


def symexp_bins(count: int, low: float = -20.0, high: float = 20.0) -> Tensor:
    """Bin centres symexp(linspace(low, high)), (count,); exactly antisymmetric for odd counts."""
    half = symexp(torch.linspace(low, 0.0, count // 2 + 1, dtype=torch.float64))
    bins = (
        torch.cat([half, -half[:-1].flip(0)])
        if count % 2
        else symexp(torch.linspace(low, high, count, dtype=torch.float64))
    )
    return bins.float()


class TwoHot:
    """A distribution over the bins, for each of the inputs.

    The target's weight lies on the two nearest bins, in proportion to its distance from each, so
    that the expectation of a two-hot target is the target itself. Targets beyond the outer bins
    are clamped to them.

    Args:
        inputs: (…, U), what the last layer sees.
        bins: (K,), ascending and antisymmetric, see `symexp_bins`.
        weight: (K, U) and bias (K,), the last layer.
    """

    def __init__(self, inputs: Tensor, bins: Tensor, weight: Tensor, bias: Tensor) -> None:
        self.bins = bins
        self._shape = inputs.shape[:-1]
        self._bins = native.two_hot(inputs.reshape(-1, inputs.shape[-1]), weight, bias, bins)

    def pred(self) -> Tensor:
        """Return the expectation (…), without gradients."""
        return self._bins.expectation().view(self._shape)

    def loss(self, *targets: Tensor, scales: tuple[float, ...] = (1.0,)) -> Tensor:
        """Return the cross-entropy (…) to each of the targets (…), summed with `scales`."""
        positions, weights = [], []
        for target, scale in zip(targets, scales, strict=True):
            below, above = two_hot_position(target, self.bins)
            positions += [below, below + 1]
            weights += [scale * (1.0 - above), scale * above]
        position = torch.stack(positions, -1).view(-1, 2 * len(targets))  # (R, M)
        weight = torch.stack(weights, -1).view(-1, 2 * len(targets))  # (R, M)
        return self._bins.cross_entropy(position, weight).view(self._shape)


def two_hot_position(target: Tensor, bins: Tensor) -> tuple[Tensor, Tensor]:
    """Index of the bin below the target (…), and the weight of the bin above it (…) in [0, 1]."""
    clamped = target.clamp(bins[0], bins[-1])
    below = (torch.bucketize(clamped, bins, right=True) - 1).clamp(0, len(bins) - 2)
    low, high = bins[below], bins[below + 1]
    return below, (clamped - low) / (high - low)

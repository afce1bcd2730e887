"""Heads: small networks from features to output distributions with one face.

A distribution offers `pred()`, what to expect, and `loss(target)` (…) in nats. Those of observations stand
with their encoders, in a file for each kind of observation.
"""

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from qdreamer import native
from qdreamer.worldmodel.networks.layers import MLPHead


class Bernoulli:
    """A probability; targets in [0, 1] may be soft (here 1 − 1/horizon)."""

    def __init__(self, logit: Tensor) -> None:
        self.logit = logit  # (…)

    def pred(self) -> Tensor:
        return torch.sigmoid(self.logit)

    def loss(self, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(self.logit, target, reduction="none")


class TwoHot:
    """A categorical over exponentially spaced bins, for each of the inputs (DreamerV3, eqs. 10–11).

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
        """Return the cross-entropy (…) to each of the targets (…), summed with `scales`.

        Raises ValueError for another number of scales than of targets.
        """
        if len(scales) != len(targets):
            raise ValueError(f"{len(targets)} targets have {len(scales)} scales")
        rows = torch.stack(targets, -1).view(-1, len(targets))  # (R, M)
        return self._bins.cross_entropy(rows, rows.new_tensor(scales)).view(self._shape)


def symexp_bins(count: int, low: float = -20.0, high: float = 20.0) -> Tensor:
    """Return the bin centres symexp(linspace(low, high)), (count,); exactly antisymmetric for odd counts."""
    # Not on the meta device, where torch's own rules for these functions import its compiler, for seconds.
    spaced = partial(torch.linspace, dtype=torch.float64, device="cpu")
    half = symexp(spaced(low, 0.0, count // 2 + 1))
    bins = torch.cat([half, -half[:-1].flip(0)]) if count % 2 else symexp(spaced(low, high, count))
    return bins.float().to(torch.get_default_device())


def symlog(x: Tensor) -> Tensor:
    """Return sign(x)·ln(|x| + 1), which compresses large values (DreamerV3, eq. 9)."""
    return torch.sign(x) * torch.log1p(torch.abs(x))


def symexp(x: Tensor) -> Tensor:
    """Return sign(x)·(exp|x| − 1), the inverse of `symlog`."""
    return torch.sign(x) * torch.expm1(torch.abs(x))


class BernoulliHead(MLPHead):
    """Features (…, F) → the probability that the episode continues (…)."""

    def __init__(self, features: int, units: int, layers: int) -> None:
        super().__init__(features, units, layers, 1)

    def forward(self, features: Tensor) -> Bernoulli:
        return Bernoulli(super().forward(features).squeeze(-1))


class TwoHotHead(MLPHead):
    """Features (…, F) → a scalar as symexp two-hot bins; starts by predicting exactly 0."""

    bins: Tensor

    def __init__(self, features: int, units: int, layers: int, bins: int = 255) -> None:
        super().__init__(features, units, layers, bins, scale=0.0)
        self.register_buffer("bins", symexp_bins(bins), persistent=False)

    def forward(self, features: Tensor) -> TwoHot:
        return TwoHot(self.body(features), self.bins, self.out.weight, self.out.bias)

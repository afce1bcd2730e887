"""Output distributions with one face: `pred()` (what to expect) and `loss(target)` (…) in nats."""

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from worldmodel.symlog import symexp

ROWS_AT_ONCE = 1024
"""Predictions made together on a CPU: their probabilities of 255 bins fit the L2 cache."""


class Output(Protocol):
    """What a head predicts."""

    def pred(self) -> Tensor: ...

    def loss(self, target: Tensor) -> Tensor: ...


class MeanSquare:
    """Squared error, summed over the last axis. Vectors come scaled (Hafner et al. 2023, eq. 10)."""

    def __init__(self, mean: Tensor) -> None:
        self.mean = mean  # (…, O)

    def pred(self) -> Tensor:
        return self.mean

    def loss(self, target: Tensor) -> Tensor:
        return (self.mean - target).square().sum(-1)


class OneHot:
    """A categorical over n classes; targets are class indices."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits  # (…, n)

    def pred(self) -> Tensor:
        return torch.softmax(self.logits, -1)

    def loss(self, target: Tensor) -> Tensor:
        log_probs = torch.log_softmax(self.logits, -1)
        return -log_probs.gather(-1, target.long().unsqueeze(-1)).squeeze(-1)


class Bernoulli:
    """A probability; targets in [0, 1] may be soft (here 1 − 1/horizon)."""

    def __init__(self, logit: Tensor) -> None:
        self.logit = logit  # (…)

    def pred(self) -> Tensor:
        return torch.sigmoid(self.logit)

    def loss(self, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(self.logit, target, reduction="none")


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
    """Categorical over exponentially spaced bins (Hafner et al. 2023, eqs. 11–13).

    The target's weight lies on the two nearest bins, in proportion to its distance from each, so
    that the expectation of a two-hot target is the target itself. Targets beyond the outer bins
    are clamped to them.
    """

    def __init__(self, logits: Tensor, bins: Tensor) -> None:
        self.logits = logits  # (…, K)
        self.bins = bins  # (K,), ascending and antisymmetric, see `symexp_bins`

    def pred(self) -> Tensor:
        rows = self.logits.reshape(-1, self.logits.shape[-1])
        parts = rows.split(ROWS_AT_ONCE) if rows.is_cpu else (rows,)
        return torch.cat([self._expectation(logits) for logits in parts]).view(self.logits.shape[:-1])

    def _expectation(self, logits: Tensor) -> Tensor:
        # Bins come in pairs ±b: taking the pair's difference first makes uniform probabilities
        # give exactly 0 instead of the rounding error of ±4.8e8.
        probs = torch.softmax(logits, -1)  # (R, K)
        half = probs.shape[-1] // 2
        pairs = probs[:, -half:] - probs[:, :half].flip(-1)
        return torch.mv(pairs, self.bins[-half:])

    def loss(self, *targets: Tensor, scales: tuple[float, ...] = (1.0,)) -> Tensor:
        """Cross-entropy to each of the targets (…), summed with `scales`."""
        positions, weights = [], []
        for target, scale in zip(targets, scales, strict=True):
            below, above = two_hot_position(target, self.bins)
            positions += [below, below + 1]
            weights += [scale * (1.0 - above), scale * above]
        return _CrossEntropy.apply(self.logits, torch.stack(positions, -1), torch.stack(weights, -1))


class _CrossEntropy(torch.autograd.Function):
    """−Σ_m w_m·log softmax(logits)[position_m]: logits (…, K), positions and w (…, M) → (…).

    By hand, the gradient is one pass over the K classes: softmax·Σw minus w at the M positions.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, position: Tensor, weight: Tensor) -> Tensor:
        log_probs = torch.log_softmax(logits, -1)
        ctx.save_for_backward(log_probs, position, weight)
        return -(log_probs.gather(-1, position) * weight).sum(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        log_probs, position, weight = ctx.saved_tensors
        grad_weight = grad.unsqueeze(-1) * weight  # (…, M)
        grad_logits = log_probs.exp().mul_(grad_weight.sum(-1, keepdim=True))
        return grad_logits.scatter_add_(-1, position, grad_weight.neg_()), None, None


def two_hot_position(target: Tensor, bins: Tensor) -> tuple[Tensor, Tensor]:
    """Index of the bin below the target (…), and the weight of the bin above it (…) in [0, 1]."""
    clamped = target.clamp(bins[0], bins[-1])
    below = (torch.bucketize(clamped, bins, right=True) - 1).clamp(0, len(bins) - 2)
    low, high = bins[below], bins[below + 1]
    return below, (clamped - low) / (high - low)

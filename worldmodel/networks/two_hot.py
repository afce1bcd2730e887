"""Scalars as a categorical over exponentially spaced bins (Hafner et al. 2023, eqs. 11–13)."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from qdreamer.native import kernels
from qdreamer.native.products import affine, product
from qdreamer.worldmodel.networks.symlog import symexp

ROWS_AT_ONCE = 1024
"""Rows treated together on a CPU: their probabilities of 255 bins fit the L2 cache."""


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

    The bins are many more numbers than the inputs, so the last linear layer belongs to the
    distribution: logits are made, used and dropped for some rows after others.

    Args:
        inputs: (…, U), what the last layer sees; without a layer the logits themselves.
        bins: (K,), ascending and antisymmetric, see `symexp_bins`.
        weight: (K, U) and bias (K,), the last layer.
    """

    def __init__(
        self, inputs: Tensor, bins: Tensor, weight: Tensor | None = None, bias: Tensor | None = None
    ) -> None:
        self.inputs, self.bins = inputs, bins
        self.weight, self.bias = weight, bias
        self._kept: tuple[Tensor, ...] | None = None

    def pred(self) -> Tensor:
        """The expectation (…), without gradients."""
        parts = self._outcomes(keep=self.inputs.requires_grad)
        expectations = [e if e is not None else self._expectation(log_probs) for log_probs, e in parts]
        return torch.cat(expectations).view(self.inputs.shape[:-1])

    def _expectation(self, log_probs: Tensor) -> Tensor:
        # Bins come in pairs ±b: taking the pair's difference first makes uniform probabilities
        # give exactly 0 instead of the rounding error of ±4.8e8.
        probs = log_probs.exp()  # (R, K)
        half = probs.shape[-1] // 2
        pairs = probs[:, -half:] - probs[:, :half].flip(-1)
        return torch.mv(pairs, self.bins[-half:])

    def loss(self, *targets: Tensor, scales: tuple[float, ...] = (1.0,)) -> Tensor:
        """Cross-entropy (…) to each of the targets (…), summed with `scales`."""
        positions, weights = [], []
        for target, scale in zip(targets, scales, strict=True):
            below, above = two_hot_position(target, self.bins)
            positions += [below, below + 1]
            weights += [scale * (1.0 - above), scale * above]
        position = torch.stack(positions, -1).view(-1, 2 * len(targets))  # (R, M)
        weight = torch.stack(weights, -1).view(-1, 2 * len(targets))  # (R, M)
        log_probs = tuple(log_probs for log_probs, _ in self._outcomes(keep=True))
        losses = _CrossEntropy.apply(self._rows(), self.weight, self.bias, log_probs, position, weight)
        return losses.view(self.inputs.shape[:-1])

    def _rows(self) -> Tensor:
        return self.inputs.reshape(-1, self.inputs.shape[-1])

    @torch.no_grad()
    def _outcomes(self, keep: bool) -> Iterator[tuple[Tensor, Tensor | None]]:
        """log softmax of the logits, (R, K) for some rows after others, and its expectation if at hand.

        Where a loss will follow they are to be kept; else they may be missing behind the expectation.
        """
        if self._kept is not None:
            yield from ((log_probs, None) for log_probs in self._kept)
            return
        kept = []
        for rows in _parts(self._rows()):
            expectation = None
            if kernels.fit(rows):
                log_probs = rows.clone() if self.weight is None else affine(rows, self.weight)
                upper = self.bins[-(len(self.bins) // 2) :]
                expectation = kernels.log_softmax_(log_probs, self.bias, upper, keep)
            else:
                logits = rows if self.weight is None else affine(rows, self.weight, self.bias)
                log_probs = torch.log_softmax(logits, -1)
            if keep:
                kept.append(log_probs)
            yield log_probs, expectation
        if keep:
            self._kept = tuple(kept)


class _CrossEntropy(torch.autograd.Function):
    """−Σ_m w_m·log p[position_m] with p the distribution's: rows (R, ·), positions and w (R, M) → (R,).

    By hand, the gradient is one pass over the K classes: p·Σw minus w at the M positions.
    """

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        log_probs: tuple[Tensor, ...],
        position: Tensor,
        target: Tensor,
    ) -> Tensor:
        ctx.layer = weight is not None
        ctx.save_for_backward(inputs, position, target, *log_probs, *([] if weight is None else [weight]))
        parts = zip(log_probs, _parts(position), _parts(target), strict=True)
        return torch.cat([-(log.gather(-1, p) * w).sum(-1) for log, p, w in parts])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, position, target, *log_probs = ctx.saved_tensors
        weight = log_probs.pop() if ctx.layer else None
        grad_weight = grad.unsqueeze(-1) * target  # (R, M)
        grad_inputs, sums = [], None
        for rows, log, at, g in zip(
            _parts(inputs), log_probs, _parts(position), _parts(grad_weight), strict=True
        ):
            if kernels.fit(log):
                bias_sums = kernels.make_sums(log.shape[-1])
                grad_logits = kernels.cross_entropy_backward(log, at, g, bias_sums)  # (R, K)
                grad_bias = bias_sums.sum(0)
            else:
                grad_logits = log.exp().mul_(g.sum(-1, keepdim=True)).scatter_add_(-1, at, -g)  # (R, K)
                grad_bias = grad_logits.sum(0)
            if weight is None:
                grad_inputs.append(grad_logits)
                continue
            grad_inputs.append(product(grad_logits, weight))
            here = [product(grad_logits.t(), rows), grad_bias]
            if sums is None:
                sums = here
            else:
                torch._foreach_add_(sums, here)
        grad_w, grad_b = sums or (None, None)
        return torch.cat(grad_inputs), grad_w, grad_b, None, None, None


def _parts(rows: Tensor) -> tuple[Tensor, ...]:
    return rows.split(ROWS_AT_ONCE) if rows.is_cpu else (rows,)


def two_hot_position(target: Tensor, bins: Tensor) -> tuple[Tensor, Tensor]:
    """Index of the bin below the target (…), and the weight of the bin above it (…) in [0, 1]."""
    clamped = target.clamp(bins[0], bins[-1])
    below = (torch.bucketize(clamped, bins, right=True) - 1).clamp(0, len(bins) - 2)
    low, high = bins[below], bins[below + 1]
    return below, (clamped - low) / (high - low)

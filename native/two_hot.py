"""A softmax over many paired bins ±b: its expectation, and its cross-entropy to targets on a few bins.

The bins (255) are many more numbers than the inputs, so the last linear layer belongs to the kernel: logits
are made, used and dropped for some rows after others, and the gradient p·Σw − w is one pass over them.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from qdreamer.native.dispatch import TENSOR, Function, Kernel, fits
from qdreamer.native.library import INT32, INT64
from qdreamer.native.products import affine, linear, product

ROWS_AT_ONCE = 1024
"""Rows treated together: their probabilities of 255 bins fit the L2 cache."""

_log_softmax = Function("log_softmax", INT32, INT64, INT64, TENSOR, TENSOR, INT32, TENSOR, TENSOR)
_cross_entropy_backward = Function("cross_entropy_backward", INT32, *[INT64] * 3, *[TENSOR] * 5)


class BinDistribution:
    """A categorical distribution over bins for each of R rows.

    Args:
        rows: (R, U). weight, bias: (K, U) and (K,), of the logits. bins: (K,), ascending and antisymmetric.
    """

    def __init__(self, rows: Tensor, weight: Tensor, bias: Tensor, bins: Tensor) -> None:
        self.log_probs = torch.log_softmax(linear(rows, weight, bias), -1)  # (R, K)
        self.bins = bins

    def expectation(self) -> Tensor:
        """Return Σ_k p_k·b_k, (R,), without gradients; exactly 0 for uniform probabilities."""
        # Taking each pair's difference first makes uniform probabilities give exactly 0 instead of the
        # rounding error of ±4.8e8.
        probs = self.log_probs.detach().exp()
        half = probs.shape[-1] // 2
        return torch.mv(probs[:, -half:] - probs[:, :half].flip(-1), self.bins[-half:])

    def cross_entropy(self, position: Tensor, weight: Tensor) -> Tensor:
        """Return −Σ_m w_m·log p[position_m], (R,): positions and weights (R, M)."""
        return -(self.log_probs.gather(-1, position) * weight).sum(-1)


class FusedBinDistribution:
    """The same in C, without logits in memory where no loss will need them."""

    def __init__(self, *parameters: Tensor) -> None:
        self.rows, self.weight, self.bias, self.bins = parameters
        self._pass(keep=self.rows.requires_grad)

    def expectation(self) -> Tensor:
        return self._expectation

    def cross_entropy(self, position: Tensor, weight: Tensor) -> Tensor:
        if not self._log_probs:
            self._pass(keep=True)
        return _CrossEntropy.apply(self.rows, self.weight, self.bias, self._log_probs, position, weight)

    @torch.no_grad()
    def _pass(self, keep: bool) -> None:
        """Set the expectation (R,), and keep log p of some rows after others for a loss if told so."""
        self._expectation = self.rows.new_empty(len(self.rows))
        self._log_probs: list[Tensor] = []
        upper, threads = self.bins[-(len(self.bins) // 2) :], torch.get_num_threads()
        parts = (x.split(ROWS_AT_ONCE) for x in (self.rows, self._expectation))
        for rows, expectation in zip(*parts, strict=True):
            logits = affine(rows, self.weight)  # become log p in place
            _log_softmax(threads, *logits.shape, logits, self.bias, keep, upper, expectation)
            if keep:
                self._log_probs.append(logits)


class _CrossEntropy(torch.autograd.Function):
    """By hand, the gradient is one pass over the K bins: p·Σw minus w at the M positions."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor, log_probs: list[Tensor], position: Tensor,
        w: Tensor,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(rows, weight, position, w, *log_probs)
        parts = zip(log_probs, position.split(ROWS_AT_ONCE), w.split(ROWS_AT_ONCE), strict=True)
        return torch.cat([-(log.gather(-1, at) * v).sum(-1) for log, at, v in parts])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, position, w, *log_probs = ctx.saved_tensors
        threads = torch.get_num_threads()
        grad_rows, grad_weight = torch.empty_like(rows), torch.zeros_like(weight)
        sums = weight.new_zeros(threads, len(weight))  # of the bias; each thread adds up its own
        parts = (x.split(ROWS_AT_ONCE) for x in (rows, grad_rows, position, grad.unsqueeze(-1) * w))
        for log, x, grad_x, at, v in zip(log_probs, *parts, strict=True):
            grad_logits = torch.empty_like(log)
            _cross_entropy_backward(threads, *log.shape, at.shape[1], log, at, v, grad_logits, sums)
            grad_x.copy_(product(grad_logits, weight))
            grad_weight.add_(product(grad_logits.t(), x))
        return grad_rows, grad_weight, sums.sum(0), None, None, None


two_hot: Kernel[[Tensor, Tensor, Tensor, Tensor], BinDistribution | FusedBinDistribution] = Kernel(
    "two_hot", BinDistribution, FusedBinDistribution, fits
)

"""A softmax over many paired bins ±b: its expectation, and cross-entropies to two-hot targets.

Two-hot targets: DreamerV3, eqs. 10 and 11.

The bins (255) are many more numbers than the inputs, so the last linear layer belongs to the kernel
(c/two_hot.c): logits are made, used and dropped for some rows after others; so is their gradient p·Σw − w.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from qdreamer.native.dispatch import Function, Kernel, fits
from qdreamer.native.library import INT64, POINTER, Struct, members
from qdreamer.native.products import linear, rounds
from qdreamer.native.structs import PANEL, CallMemory, threads_for


def two_hot_position(target: Tensor, bins: Tensor) -> tuple[Tensor, Tensor]:
    """Return the index of the bin below the target (…), and the weight of the bin above it, in [0, 1].

    Targets beyond the outer bins are clamped to them.
    """
    clamped = target.clamp(bins[0], bins[-1])
    below = (torch.bucketize(clamped, bins, right=True) - 1).clamp(0, len(bins) - 2)
    low, high = bins[below], bins[below + 1]
    return below, (clamped - low) / (high - low)


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

    def cross_entropy(self, targets: Tensor, scales: Tensor) -> Tensor:
        """Return the cross-entropies to two-hot targets (R, M), summed with scales (M,), → (R,)."""
        below, above = two_hot_position(targets, self.bins)
        low, high = self.log_probs.gather(-1, below), self.log_probs.gather(-1, below + 1)
        return -((low * (1.0 - above) + high * above) * scales).sum(-1)


class FusedBinDistribution:
    """The same in C, without logits in memory where no loss will need them."""

    def __init__(self, *parameters: Tensor) -> None:
        self.rows, self.weight, self.bias, self.bins = parameters
        self._log_probs: Tensor | None = None  # (R, K), once a loss needs them
        self._pass(keep=self.rows.requires_grad)

    def expectation(self) -> Tensor:
        return self._expectation

    def cross_entropy(self, targets: Tensor, scales: Tensor) -> Tensor:
        if self._log_probs is None:
            self._pass(keep=True)
        given = self._log_probs, self.bins, targets, scales
        return _CrossEntropy.apply(self.rows, self.weight, self.bias, *given)

    @torch.no_grad()
    def _pass(self, keep: bool) -> None:
        """Set the expectation (R,), and log p (R, K) for a loss if told so."""
        self._expectation = self.rows.new_empty(len(self.rows))
        self._log_probs = self.rows.new_empty(len(self.rows), len(self.bins)) if keep else None
        _run(
            _forward, self.rows, self.weight, bias=self.bias, bins=self.bins,
            expectation=self._expectation, log_probs=self._log_probs,
        )  # fmt: skip


class _CrossEntropy(torch.autograd.Function):
    """By hand, the gradient is one pass over the K bins: p·Σw minus w at the bins beside the M targets."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> Tensor:
        rows, weight, _, log_probs, bins, targets, scales = tensors
        loss, count = rows.new_empty(len(rows)), targets.shape[-1]
        _run(
            _loss, rows, weight, count,
            log_probs=log_probs, bins=bins, target=targets, scale=scales, loss=loss,
        )  # fmt: skip
        ctx.save_for_backward(rows, weight, log_probs, bins, targets, scales)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, log_probs, bins, targets, scales = ctx.saved_tensors
        grad_rows = rows.new_empty(rows.shape)
        threads = threads_for(len(rows), weight.numel())
        sums = weight.new_zeros(threads, weight.numel() + len(weight))  # each thread adds up its own
        _run(
            _backward, rows, weight, targets.shape[-1], log_probs=log_probs, bins=bins, target=targets,
            scale=scales, grad=grad, grad_x=grad_rows, sums=sums,
        )  # fmt: skip
        total = sums[0] if len(sums) == 1 else sums.sum(0)
        grad_weight, grad_bias = total.split([weight.numel(), len(weight)])
        return grad_rows, grad_weight.view_as(weight), grad_bias, None, None, None, None


class _Struct(Struct, name="two_hot"):
    """See c/two_hot.c."""

    _fields_ = (
        *members(INT64, "threads rows inputs classes targets"),
        *members(POINTER, "x weight bias packed bins expectation log_probs"),
        *members(POINTER, "target scale loss grad grad_x sums"),
    )


_forward, _loss, _backward = (
    Function(name, ctypes.POINTER(_Struct)) for name in ("two_hot", "two_hot_loss", "two_hot_backward")
)


def _run(
    function: Function, rows: Tensor, weight: Tensor, targets: int = 0, **tensors: Tensor | None
) -> None:
    memory, (classes, inputs) = CallMemory(rows), weight.shape
    packed = rows.new_empty((classes + PANEL) * (inputs + PANEL))
    given = tensors | {"x": rows, "weight": weight, "packed": packed}
    function(
        _Struct(
            threads_for(len(rows), weight.numel()), len(rows), inputs, classes, targets,
            **{name: memory.pointer(tensor) for name, tensor in given.items() if tensor is not None},
        )
    )  # fmt: skip


def supports(*parameters: Tensor) -> bool:
    return fits(*parameters) and not rounds()


two_hot: Kernel[[Tensor, Tensor, Tensor, Tensor], BinDistribution | FusedBinDistribution] = Kernel(
    "two_hot", BinDistribution, FusedBinDistribution, supports
)

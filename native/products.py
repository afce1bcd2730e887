"""Dense products, on the fastest library at hand.

torch multiplies float32 matrices on a CPU with MKL, which leaves half of what processors other than Intel's
can do unused: on an AMD server oneDNN, part of the same torch, ran at 200 GFLOP/s where MKL ran at 92. On
an Intel server both reached 150, and MKL was up to twice as fast where the first matrix comes transposed,
as in weight gradients, because it needs no copy (one thread; `python -m benchmarks.products`). oneDNN takes
longer to start and records no gradients: small products, and those that autograd follows, stay with MKL, so
gradients are written by hand where speed counts. Elsewhere (GPUs, other types, builds without oneDNN) torch
decides.

`use_bfloat16` rounds the factors and the results of these products, and nothing else: weights, sums over
time, normalisation, losses, and products inside kernels in C and inside attention keep float32.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LEAST = 2**20  # multiplications from which oneDNN is ahead


def is_intel(cpu_info: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether the first processor names Intel as its vendor. False where none tells (no Linux)."""
    return cpu_info.exists() and "GenuineIntel" in cpu_info.read_text()


ONEDNN = (
    torch.backends.mkldnn.is_available()
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    and not (is_intel() and torch.backends.mkl.is_available())
)

_bfloat16 = False
_portable = False


def rounds() -> bool:
    """Return whether float32 matrices are multiplied in bfloat16."""
    return _bfloat16


def use_bfloat16(wanted: bool) -> None:
    """Multiply float32 matrices in bfloat16 from now on, or no longer."""
    global _bfloat16
    _bfloat16 = wanted


@contextmanager
def in_float32() -> Iterator[None]:
    """Multiply in float32 meanwhile: for differences that the rounding of bfloat16 would drown."""
    before = _bfloat16
    use_bfloat16(False)
    try:
        yield
    finally:
        use_bfloat16(before)


@contextmanager
def portable() -> Iterator[None]:
    """Multiply by torch's own operations alone meanwhile, in float32: for graphs that others are to run."""
    global _portable
    before, _portable = _portable, True
    try:
        with in_float32():
            yield
    finally:
        _portable = before


def _rounded(x: Tensor, weight: Tensor) -> bool:
    return _bfloat16 and x.dtype == weight.dtype == torch.float32


def affine(x: Tensor, weight: Tensor, add: Tensor | None = None) -> Tensor:
    """Return x·weightᵀ + add: (R, in), (out, in), (out,) or (R, out) → (R, out)."""
    if _rounded(x, weight):
        y = torch.mm(x.bfloat16(), weight.bfloat16().t()).float()
        return y if add is None else y + add
    if worthwhile(x, weight):
        if add is not None and add.dim() == 2:
            return torch.ops.mkldnn._linear_pointwise.binary(x, add, weight, None, "add")
        # The kernel ignores the strides of a bias.
        bias = None if add is None else add.contiguous()
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return torch.mm(x, weight.t()) if add is None else torch.addmm(add, x, weight.t())


def product(a: Tensor, b: Tensor) -> Tensor:
    """Return a·b: (R, n), (n, m) → (R, m)."""
    return affine(a, b.t())


def blockwise(x: Tensor, weight: Tensor, add: Tensor | None = None) -> Tensor:
    """Return x (R, in) times the blocks (g, in/g, out/g), plus `add` (R, out) or (out,)."""
    rows, blocks = x.shape[0], weight.shape[0]  # a length would be a constant of exported graphs
    if blocks == 1:
        return affine(x, weight[0].t(), add)
    parts = x.view(rows, blocks, -1).transpose(0, 1)  # (g, R, in/g)
    if _rounded(x, weight):
        out = torch.bmm(parts.bfloat16(), weight.bfloat16()).float().transpose(0, 1).reshape(rows, -1)
    elif worthwhile(parts[0], weight[0]):
        out = torch.cat([product(part, w) for part, w in zip(parts, weight, strict=True)], -1)
    else:
        out = torch.bmm(parts, weight).transpose(0, 1).reshape(rows, -1)  # (R, out)
    return out if add is None else out + add


def worthwhile(x: Tensor, weight: Tensor) -> bool:
    """Tell whether oneDNN multiplies these faster than torch.mm, and may: it has no gradients."""
    return (
        not _portable
        and len(x) * weight.numel() >= LEAST
        and ONEDNN
        and x.is_cpu
        and x.dtype == weight.dtype == torch.float32
        and not _bfloat16
        and not torch.is_grad_enabled()
    )


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return `affine`, with gradients by the same library where they are wanted."""
    return _Linear.apply(x, weight, bias) if torch.is_grad_enabled() else affine(x, weight, bias)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return affine(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        grad_x = product(grad, weight) if ctx.needs_input_grad[0] else None
        return grad_x, product(grad.t(), x), grad.sum(0)

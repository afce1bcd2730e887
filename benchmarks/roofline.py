"""The least time that an update's arithmetic takes on this machine, and a measure of its traffic.

The multiplications of all matrix products are counted while one update runs (torch's own counter);
divided by the best measured rate they give a floor that no rearrangement of the same products gets
under. The bytes of all tensors that operations read and write, divided by the bandwidth of a large
copy, are a reference, not a floor: what is fused or stays in a cache costs less.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.products import typical_seconds
from qdreamer import native
from qdreamer.native import products


class Work(NamedTuple):
    gflop: float
    gigabytes: float


class Rates(NamedTuple):
    gflops: float  # of a large product
    gigabytes: float  # per second, of a copy much larger than the caches


_MOVE_NOTHING = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided", "_unsafe_view")


class _Traffic(TorchDispatchMode):
    """Sums the bytes of what every operation reads and writes; views and allocations move nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view and func.overloadpacket.__name__ not in _MOVE_NOTHING:
            tensors = {id(t): t for t in tree_leaves((args, kwargs, out)) if torch.is_tensor(t)}
            self.bytes += sum(t.numel() * t.element_size() for t in tensors.values())
        return out


def count(update: Callable[[], object]) -> Work:
    """Run one update and count, with oneDNN's and our kernels' work left to torch: that can be counted."""
    onednn, products.ONEDNN = products.ONEDNN, False
    fused = native.on()
    native.use(False)
    try:
        with FlopCounterMode(display=False) as flops, _Traffic() as traffic:
            update()
    finally:
        products.ONEDNN = onednn
        native.use(fused)
    return Work(flops.get_total_flops() / 1e9, traffic.bytes / 1e9)


@torch.no_grad()
def measure_rates(seconds: float = 1.0) -> Rates:
    """The best rate of a 2048³ product by either library, and the bandwidth of copying 256 MiB."""
    x, y = torch.randn(2048, 2048), torch.randn(2048, 2048)
    rate = max(
        2e-9 * 2048**3 / typical_seconds(work, seconds)
        for work in (lambda: products.affine(x, y), lambda: torch.mm(x, y.t()))
    )
    source = torch.zeros(2**26)
    target = torch.zeros_like(source)
    copied = 2 * source.numel() * source.element_size() / 1e9
    return Rates(rate, copied / typical_seconds(lambda: target.copy_(source), seconds))

"""GFLOP/s of dense products by library: python -m benchmarks.products [--threads 1].

MKL is what torch.addmm uses, oneDNN what native/products.py uses for large products, C what stacks of
layers use (`native.mlp` of a linear map alone, its packing included). The last two columns are weight
gradients, gᵀ·x. Shapes are rows × in → out: those of an update, small ones, and a large square one as the
limit.
"""

import argparse
from collections.abc import Callable
from statistics import median
from time import perf_counter

import torch
from torch import Tensor

from qdreamer import native
from qdreamer.native import products

SHAPES = (
    (16, 128, 384),
    (128, 256, 64),
    (1024, 512, 64),
    (1024, 128, 512),
    (1920, 256, 64),
    (1920, 64, 64),
    (1920, 64, 256),
    (16384, 640, 64),
    (16384, 64, 255),
    (2048, 2048, 2048),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.3, help="per figure")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    native.use(True)
    print(f"threads={a.threads} torch={torch.__version__}; median GFLOP/s, float32")
    print(f"{'rows x in -> out':>22} {'MKL':>7} {'oneDNN':>7} {'ours':>7} {'C':>7} {'oneDNN':>9} {'C':>7}")
    for rows, inputs, outputs in SHAPES:
        rates = measure(rows, inputs, outputs, a.seconds)
        print(
            f"{f'{rows} x {inputs} -> {outputs}':>22} "
            + " ".join(f"{rate:{width}.0f}" for rate, width in zip(rates, (7, 7, 7, 7, 9, 7), strict=True)),
            flush=True,
        )


@torch.no_grad()
def measure(rows: int, inputs: int, outputs: int, seconds: float) -> list[float]:
    """GFLOP/s of MKL, oneDNN, `products.affine`, which chooses, C; of weight gradients: oneDNN, C."""
    x, weight, bias = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(outputs)
    flops = 2e-9 * rows * inputs * outputs
    grad, layer = torch.randn(rows, outputs), native.Affine(weight.requires_grad_(), bias.requires_grad_())
    kernel = native.KERNELS["mlp"]
    with torch.enable_grad():
        y = kernel.call(x, [layer])

    def onednn(a: Tensor, b: Tensor, add: Tensor | None) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(a, b, add, "none", [], "")

    works: list[Callable[[], object]] = [
        lambda: torch.addmm(bias, x, weight.t()),
        lambda: onednn(x, weight, bias),
        lambda: products.affine(x, weight, bias),
        lambda: kernel.call(x, [layer]),
        lambda: onednn(grad.t(), x.t(), None),
        lambda: torch.autograd.grad(y, layer[:2], grad, retain_graph=True),
    ]
    absent = () if products.ONEDNN else (1, 4)
    return [
        float("nan") if i in absent else flops / typical_seconds(work, seconds)
        for i, work in enumerate(works)
    ]


def typical_seconds(work: Callable[[], object], seconds: float) -> float:
    """Median seconds of `work` over repetitions that take about `seconds` in all."""
    work()
    times: list[float] = []
    end = perf_counter() + seconds
    while perf_counter() < end or not times:
        begin = perf_counter()
        work()
        times.append(perf_counter() - begin)
    return median(times)


if __name__ == "__main__":
    main()

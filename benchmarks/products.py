"""GFLOP/s of dense products by library: python -m benchmarks.products [--threads 1].

MKL is what torch.addmm uses, oneDNN what native/products.py uses for large products. Shapes
are rows × in → out: those of an update at 1M, small ones, and a large square one as the limit.
"""

import argparse
from collections.abc import Callable
from statistics import median
from time import perf_counter

import torch

from qdreamer.native import products

SHAPES = (
    (16, 128, 384),
    (128, 256, 64),
    (1024, 512, 64),
    (1024, 128, 512),
    (1920, 256, 64),
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
    print(f"threads={a.threads} torch={torch.__version__}; median GFLOP/s, float32")
    print(f"{'rows x in -> out':>22} {'MKL':>7} {'oneDNN':>7} {'ours':>7}")
    for rows, inputs, outputs in SHAPES:
        rates = measure(rows, inputs, outputs, a.seconds)
        print(
            f"{f'{rows} x {inputs} -> {outputs}':>22} " + " ".join(f"{rate:7.0f}" for rate in rates),
            flush=True,
        )


@torch.no_grad()
def measure(rows: int, inputs: int, outputs: int, seconds: float) -> tuple[float, float, float]:
    """GFLOP/s of MKL, of oneDNN, and of `products.affine`, which chooses between them."""
    x, weight, bias = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(outputs)
    flops = 2e-9 * rows * inputs * outputs
    direct = float("nan")
    if products.ONEDNN:
        onednn = torch.ops.mkldnn._linear_pointwise
        direct = flops / typical_seconds(lambda: onednn(x, weight, bias, "none", [], ""), seconds)
    return (
        flops / typical_seconds(lambda: torch.addmm(bias, x, weight.t()), seconds),
        direct,
        flops / typical_seconds(lambda: products.affine(x, weight, bias), seconds),
    )


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

"""Stacks of layers in C and by torch's operations: python -m benchmarks.stacks [--threads 1] [--rounds 15].

Three layers of `units` on inputs of a width, in turns; the median ratio of the times, without gradients and
for a pass and back (weights alone). `native/mlp.py` leaves few rows with large weights to torch; here both
take all.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from time import perf_counter

import torch
from torch import Tensor

from qdreamer import native

WIDTHS = ((256, 64), (640, 64), (2560, 256), (4992, 512))  # inputs, units: tiny, 1M, 12M, 50M
ROWS = (1, 16, 64, 256, 2048)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    native.use(True)
    kernel = native.KERNELS["mlp"]
    print(f"threads={a.threads} torch={torch.__version__}; C over torch, median of {a.rounds} turns")
    print(f"{'inputs units':>13} {'rows':>5} {'ms in C':>8} {'pass':>6} {'and back':>9}")
    for inputs, units in WIDTHS:
        layers = [random_layer(width, units) for width in (inputs, units, units)]
        for rows in ROWS:
            x, grad = torch.randn(rows, inputs), torch.randn(rows, units)
            with torch.no_grad():
                given = x, layers
                milliseconds, once = ratio(kernel.call, kernel.reference, given, a.rounds)
            in_c, by_torch = partial(pass_and_back, kernel.call), partial(pass_and_back, kernel.reference)
            _, back = ratio(in_c, by_torch, (x, layers, grad), a.rounds)
            print(f"{inputs:>7} {units:>5} {rows:>5} {milliseconds:>8.2f} {once:>6.2f} {back:>9.2f}")


def pass_and_back(
    run: Callable[..., Tensor], x: Tensor, layers: Sequence[native.Layer], grad: Tensor
) -> object:
    """Return the weights' gradients."""
    return torch.autograd.grad(run(x, layers), [tensor for layer in layers for tensor in layer], grad)


def random_layer(inputs: int, units: int) -> native.Layer:
    tensors = 0.1 * torch.randn(units, inputs), torch.zeros(units), torch.ones(units)
    return native.Layer(*(tensor.requires_grad_() for tensor in tensors))


def ratio(
    one: Callable[..., object], other: Callable[..., object], given: Sequence[object], rounds: int
) -> tuple[float, float]:
    """Return the first's milliseconds, and its time over the other's, taken in turns."""
    times: list[list[float]] = []
    for _ in range(rounds + 2):
        turn = []
        for work in (one, other):
            begin = perf_counter()
            work(*given)
            turn.append(perf_counter() - begin)
        times.append(turn)
    counted = times[2:]  # the first two warm up
    return median(t[0] for t in counted) * 1e3, median(t[0] / t[1] for t in counted)


if __name__ == "__main__":
    main()

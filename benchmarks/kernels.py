"""What the kernels in C save and cost: python -m benchmarks.kernels [--size 1M] [--threads 1] [--inductor].

First microseconds of each kernel beside the torch operations that it stands in for, alternately.
With --inductor, torch.compile is given the same operations, each in a function of its own with
fixed shapes; its seconds are those of its first call with an empty cache.

Then the seconds that the kernels take to compile (empty cache) and to load (from then on), the
milliseconds of an update with and without them, alternately in one process, and after how many updates
the compilation is paid for. Shapes are those of 1M at B=16, T=64.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from qdreamer.agents.cli.command_line import load_config
from qdreamer.agents.training.memory import keep_freed_memory
from qdreamer.agents.training.training import Run
from qdreamer.native import kernels
from qdreamer.native.norm_silu import norm_silu, norm_silu_backward
from qdreamer.worldmodel.networks.categorical import draw_few_classes

BATCH, LENGTH = 16, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="1M")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--updates", type=int, default=10)
    parser.add_argument(
        "--inductor", action="store_true", help="compile the operations with torch.compile too"
    )
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    keep_freed_memory()
    print(f"threads={a.threads} torch={torch.__version__}; medians")
    with tempfile.TemporaryDirectory() as empty:
        compiling, loading = (seconds_to_switch_on(empty) for _ in range(2))
    print(f"kernels: compiled in {compiling:.1f} s, loaded in {loading * 1e3:.0f} ms")
    print(
        f"{'operation':28} {'torch':>8} {'kernel':>8}"
        + (f" {'inductor':>9} {'compile':>8}" if a.inductor else "")
    )
    for name, operation, eager in cases():
        compare(name, operation, eager, a.inductor)
    with tempfile.TemporaryDirectory() as directory:
        overrides = [
            "agent=classical", f"world_model={a.size}", f"train.batch_size={BATCH}",
            f"train.batch_length={LENGTH}", f"agent.imagination_starts={LENGTH}", f"threads={a.threads}",
            "logging.tensorboard=false",
        ]  # fmt: skip
        run = Run(load_config(overrides), Path(directory))
        for _ in range(BATCH * LENGTH + LENGTH):
            run.collector.step(random=True)
        plain, fused = alternate(run.learner.update, a.updates)
        run.close()
    print(f"update of {a.size}: {plain * 1e3:.0f} ms without, {fused * 1e3:.0f} ms with kernels")
    print(f"compiling is paid for after {compiling / (plain - fused):.0f} updates")


def seconds_to_switch_on(cache: str) -> float:
    """In a process of its own, without the imports."""
    code = (
        "from time import perf_counter; from worldmodel import kernels; begin = perf_counter();"
        "kernels.use(True); print(perf_counter() - begin)"
    )
    environment = os.environ | {"XDG_CACHE_HOME": cache}
    command = [sys.executable, "-c", code]
    return float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


def cases() -> list[tuple[str, Callable[[], Any], Callable[..., Any]]]:
    """Name, the operation as the agent calls it, and the same in plain torch for torch.compile."""
    width, rows = 64, 2048
    scale, bias = torch.ones(width), torch.zeros(width)
    x, out = torch.randn(rows, width), torch.empty(rows, width)
    unit, inverse, grad = torch.randn(rows, width), torch.rand(rows, 1), torch.randn(rows, width)
    logits, uniform = torch.randn(1024, 4, 32), torch.rand(1024, 32)
    zeros, one_hot = torch.zeros(128), torch.empty(1024, 128)
    scores, no_bias, upper = torch.randn(1024, 255), torch.zeros(255), torch.linspace(0.0, 5.0, 127)

    def norm() -> Any:
        if kernels.on():
            return kernels.norm_silu(x.clone(), bias, scale, out, keep=True)
        return norm_silu(x + bias, scale, out)

    def eager_norm() -> tuple[Tensor, Tensor, Tensor]:
        y = x + bias
        factor = torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-4)
        return F.silu(y * factor * scale), y * factor, factor

    def eager_backward() -> tuple[Tensor, Tensor, Tensor]:
        y = unit * scale
        s = torch.sigmoid(y)
        scaled = grad * s * (1.0 + y * (1.0 - s))
        along = scaled * unit
        grad_x = (scaled * scale - unit * (along * scale).mean(-1, keepdim=True)) * inverse
        return grad_x, along.sum(0), grad_x.sum(0)

    def draw() -> Any:
        if kernels.on():
            return kernels.draw_latents(logits, zeros, uniform, 0.01, one_hot)
        return draw_few_classes(logits, uniform, 0.01)

    def eager_draw() -> Tensor:
        below = (torch.softmax(logits, 1) * 0.99 + 0.0025).cumsum(1) <= uniform.unsqueeze(1)
        return F.one_hot(below.sum(1).clamp(max=3), 4).float()

    def expectation() -> Any:
        if kernels.on():
            return kernels.log_softmax_(scores.clone(), no_bias, upper, keep=True)
        return eager_expectation()

    def eager_expectation() -> tuple[Tensor, Tensor]:
        log_probs = torch.log_softmax(scores + no_bias, -1)
        probs = log_probs.exp()
        return log_probs, torch.mv(probs[:, -127:] - probs[:, :127].flip(-1), upper)

    return [
        ("norm + SiLU (2048, 64)", norm, eager_norm),
        ("its gradient", lambda: norm_silu_backward(grad, unit, inverse, scale), eager_backward),
        ("latent draws (1024, 32, 4)", draw, eager_draw),
        ("two-hot values (1024, 255)", expectation, eager_expectation),
    ]


@torch.no_grad()
def compare(name: str, operation: Callable[[], Any], eager: Callable[..., Any], inductor: bool) -> None:
    plain, fused = alternate(operation, 200)
    line = f"{name:28} {plain * 1e6:>8.0f} {fused * 1e6:>8.0f}"
    if inductor:
        with tempfile.TemporaryDirectory() as empty:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = empty
            compiled = torch.compile(eager, dynamic=False, fullgraph=True)
            begin = perf_counter()
            compiled()
            first = perf_counter() - begin
            line += f" {alternate(compiled, 200)[1] * 1e6:>9.0f} {first:>6.1f} s"
    print(line, flush=True)


def alternate(work: Callable[[], Any], times: int) -> tuple[float, float]:
    """Median seconds without and with the kernels."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for i in range(times + 3):
        for on in (False, True):
            kernels.use(on)
            begin = perf_counter()
            work()
            if i >= 3:  # the first ones allocate
                seconds[on].append(perf_counter() - begin)
    return median(seconds[0]), median(seconds[1])


if __name__ == "__main__":
    main()

"""Milliseconds per update by part: python -m benchmarks.update [--sizes tiny 1M 12M] [--threads 1].

Parts: replay (sample, gather, write back), world model forward, imagination, behaviour (actor and
critic forward), backward, optimizer (AGC, LaProp, slow critic). Batches come from a replay buffer
filled by random play on CartPole. B, T, H and the imagination starts default to DreamerV3's. Beside
it stand the floor of the counted arithmetic and the traffic, see benchmarks/roofline.py (CPU only).
With --device cuda [--sizes 12M 50M precision=bfloat16] an update ends when the GPU has done it; the parts
are then what it takes to launch them.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

import torch

from benchmarks.roofline import count, measure_rates
from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.runs.cores import usable_cores, use_threads
from qdreamer.agents.training.learner import Learner
from qdreamer.agents.training.session import check_device
from qdreamer.agents.training.training import Run
from qdreamer.configs.schema import ConfigError

PARTS = ("replay", "world_model", "imagination", "behaviour", "backward", "optimizer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=["tiny", "1M", "12M"])
    parser.add_argument("--batch", type=int, default=16, help="B")
    parser.add_argument("--length", type=int, default=64, help="T")
    parser.add_argument("--horizon", type=int, default=15, help="H")
    parser.add_argument("--starts", type=int, default=64, help="imagination starts per sequence")
    parser.add_argument("--updates", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("overrides", nargs="*", help="further settings, as in train.py")
    a = parser.parse_args()
    try:
        check_device(a.device)
    except ConfigError as error:
        sys.exit(f"error: {error}")
    print(
        f"B={a.batch} T={a.length} H={a.horizon} starts={a.batch * a.starts} "
        f"threads={min(a.threads, usable_cores())} device={a.device} torch={torch.__version__}; "
        f"median ms of {a.updates} updates"
    )
    print(f"{'size':>6} {'parameters':>11} {'update':>9} " + " ".join(f"{part:>11}" for part in PARTS))
    rates = None
    if a.device == "cpu":
        use_threads(a.threads)  # as the runs will
        rates = measure_rates()
        print(f"machine: {rates.gflops:.0f} GFLOP/s, {rates.gigabytes:.1f} GB/s")
    for size in a.sizes:
        overrides = [
            f"world_model={size}",
            f"train.batch_size={a.batch}",
            f"train.batch_length={a.length}",
            f"agent.imagination_horizon={a.horizon}",
            f"agent.imagination_starts={a.starts}",
            f"threads={a.threads}",
            f"device={a.device}",
            "logging.writers=[jsonl]",
            "agent=classical",
            *a.overrides,
        ]
        with tempfile.TemporaryDirectory() as directory:
            run = Run(load_config(overrides), Path(directory))
            for _ in range(a.batch * a.length + a.length):
                run.collector.step(random=True)
            total, parts = measure(run.learner, a.updates)
            parameters = sum(p.numel() for p in run.agent.trainable())
            work = count(run.learner.update) if rates else None
            run.close()
        times = " ".join(f"{parts[part]:>11.1f}" for part in PARTS)
        print(f"{size:>6} {parameters:>11,} {total:>9.1f} {times}", flush=True)
        if rates and work:
            arithmetic, traffic = work.gflop / rates.gflops * 1e3, work.gigabytes / rates.gigabytes * 1e3
            print(
                f"{'':>6} {work.gflop:.1f} GFLOP: at least {arithmetic:.1f} ms, {arithmetic / total:.0%} "
                f"of the update; {work.gigabytes:.2f} GB moved: {traffic:.1f} ms without caches",
                flush=True,
            )


def measure(learner: Learner, updates: int, warmup: int = 3) -> tuple[float, dict[str, float]]:
    """Median milliseconds per update, and per part."""
    totals: list[float] = []
    parts: dict[str, list[float]] = {part: [] for part in PARTS}
    for i in range(warmup + updates):
        learner.watch.seconds.clear()
        begin = perf_counter()
        learner.update()
        if learner.device.type == "cuda":
            torch.cuda.synchronize()
        if i >= warmup:
            totals.append(perf_counter() - begin)
            for part in PARTS:
                parts[part].append(learner.watch.seconds[part])
    return median(totals) * 1e3, {part: median(values) * 1e3 for part, values in parts.items()}


if __name__ == "__main__":
    main()

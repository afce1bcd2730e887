"""How the time of an update grows: python -m benchmarks.scaling [--size 1M] [--threads 1].

One of B, T, H and the width is varied at a time, the others stay at B=16, T=32, H=15; imagination
starts from every state. Printed: median ms, and the exponent k of time ∝ xᵏ, fitted to the
logarithms. Small updates are dominated by fixed costs, so exponents in B, T and H should lie
between 0 and 1; that of the width between 0 and 2.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.update import measure
from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.training.training import Run

BASE = {"batch": 16, "length": 32, "horizon": 15, "width": 1}
VALUES = {
    "batch": (8, 16, 32, 64),
    "length": (16, 32, 64, 128),
    "horizon": (5, 15, 30, 60),
    "width": (1, 2, 4),  # times the size's own widths
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="1M")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--updates", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    a = parser.parse_args()
    print(f"{a.size}, ms per update; B=16 T=32 H=15 unless varied, T starts per row, threads={a.threads}")
    for name, values in VALUES.items():
        times = [update_time(a.size, a.threads, a.device, a.updates, BASE | {name: v}) for v in values]
        exponent = np.polyfit(np.log(values), np.log(times), 1)[0]
        cells = ", ".join(f"{v}: {t:.0f}" for v, t in zip(values, times, strict=True))
        print(f"{name:>8}  {cells}  exponent {exponent:.2f}", flush=True)


def update_time(size: str, threads: int, device: str, updates: int, shape: dict[str, int]) -> float:
    """Median milliseconds of an update."""
    width = shape["width"]
    plain = load_config([f"world_model={size}"])
    overrides = [
        "agent=classical", f"world_model={size}", f"threads={threads}", f"device={device}",
        "logging.writers=[jsonl]",
        f"train.batch_size={shape['batch']}", f"train.batch_length={shape['length']}",
        f"agent.imagination_horizon={shape['horizon']}", f"agent.imagination_starts={shape['length']}",
        f"world_model.units={plain.world_model.units * width}",
        f"world_model.deter={plain.world_model.deter * width}",
        f"world_model.hidden={plain.world_model.hidden * width}",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as directory:
        run = Run(load_config(overrides), Path(directory))
        for _ in range(2 * shape["length"] + 200):
            run.collector.step(random=True)
        milliseconds, _ = measure(run.learner, updates, warmup=2)
        run.close()
    return milliseconds


if __name__ == "__main__":
    main()

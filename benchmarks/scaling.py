"""How costs grow: python -m benchmarks.scaling [--size 1M] [--threads 1].

One of B, T, H and the width is varied at a time, the others stay at B=16, T=32, H=15; imagination
starts from every state. Then the rows that replay holds (what drawing a batch and writing its latents back
takes, uniform and prioritized) and the number of environments (a step of all of them, acted by the agent).
Printed: median ms, and the exponent k of time ∝ xᵏ, fitted to the logarithms. Small updates are dominated
by fixed costs, so exponents in B, T and H should lie between 0 and 1; that of the width between 0 and 2.
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter

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
ROWS = (10_000, 100_000, 1_000_000)
ENVIRONMENTS = (1, 4, 16, 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="1M")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--updates", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    a = parser.parse_args()
    print(f"{a.size}, ms per update; B=16 T=32 H=15 unless varied, T starts per row, threads={a.threads}")
    for name, values in VALUES.items():
        show(
            name,
            values,
            [update_time(a.size, a.threads, a.device, a.updates, BASE | {name: v}) for v in values],
        )
    print(f"tiny, B=16 T=16, threads={a.threads}: an update's replay by its rows, a step of all environments")
    for replay in ("replay=uniform replay.online=false", "replay=prioritized"):
        times = [replay_time(rows, *replay.split(), f"threads={a.threads}") for rows in ROWS]
        show(replay.split()[0], ROWS, times)
    show("environments", ENVIRONMENTS, [step_time(count, a.threads) for count in ENVIRONMENTS])


def show(name: str, values: Sequence[int], times: Sequence[float]) -> None:
    """Print a line of the table."""
    exponent = np.polyfit(np.log(values), np.log(times), 1)[0]
    cells = ", ".join(f"{v:,}: {t:.3g}" for v, t in zip(values, times, strict=True))
    print(f"{name:>18}  {cells}  exponent {exponent:.2f}", flush=True)


def update_time(size: str, threads: int, device: str, updates: int, shape: dict[str, int]) -> float:
    """Median milliseconds of an update."""
    width = shape["width"]
    plain = load_config([f"world_model={size}"])
    overrides = [
        "agent=classical", f"world_model={size}", f"threads={threads}", f"device={device}",
        f"train.batch_size={shape['batch']}", f"train.batch_length={shape['length']}",
        f"agent.imagination_horizon={shape['horizon']}", f"agent.imagination_starts={shape['length']}",
        f"world_model.units={plain.world_model.units * width}",
        f"world_model.deter={plain.world_model.deter * width}",
        f"world_model.hidden={plain.world_model.hidden * width}",
    ]  # fmt: skip
    with made(*overrides) as run:
        for _ in range(2 * shape["length"] + 200):
            run.collector.step(random=True)
        return measure(run.learner, updates, warmup=2)[0]


def replay_time(rows: int, *overrides: str) -> float:
    """Median milliseconds of an update that go to a replay of so many rows, all filled."""
    with made(*overrides, "agent=classical", f"replay.capacity={rows}", "env.num_envs=50") as run:
        for _ in range(rows // 50):
            run.collector.step(random=True)
        return measure(run.learner, updates=40)[1]["replay"]


def step_time(environments: int, threads: int) -> float:
    """Median milliseconds of a step of all environments together."""
    with made("agent=classical", f"env.num_envs={environments}", f"threads={threads}") as run:
        times = []
        for _ in range(100):
            run.collector.step(random=False)
        for _ in range(300):
            begin = perf_counter()
            run.collector.step(random=False)
            times.append(perf_counter() - begin)
        return median(times) * 1e3


@contextmanager
def made(*overrides: str) -> Iterator[Run]:
    """Make a run that trains nothing."""
    with tempfile.TemporaryDirectory() as directory:
        run = Run(load_config(["logging.writers=[jsonl]", *overrides]), Path(directory))
        yield run
        run.close()


if __name__ == "__main__":
    main()

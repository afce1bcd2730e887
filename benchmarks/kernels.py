"""What each kernel in C is worth: python -m benchmarks.kernels [--rounds 20] [--kernels NAME …] [OVERRIDE …].

Every round makes one update with all kernels, then one without each of them, then one without any; printed
are the medians over the rounds, as ratios to the update with all. Shapes are tiny's own, and those of 1M at
B=16, T=64, for the classical and the hybrid agent, on one thread.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from time import process_time

from qdreamer import native
from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.training.training import Run

SIZES = {
    "tiny": [],
    "1M": ["world_model=1M", "train.batch_size=16", "train.batch_length=64", "agent.imagination_starts=64"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--agents", nargs="+", default=["classical", "hybrid"])
    parser.add_argument("--kernels", nargs="+", default=list(native.KERNELS), choices=list(native.KERNELS))
    parser.add_argument("overrides", nargs="*", help="further settings, as in train.py")
    a = parser.parse_args()
    columns = [(size, agent) for size in a.sizes for agent in a.agents]
    seconds = [measure(size, agent, a.kernels, a.rounds, a.overrides) for size, agent in columns]
    print(f"{'without':16} " + " ".join(f"{size + ' ' + agent:>16}" for size, agent in columns))
    print(f"{'nothing, ms':16} " + " ".join(f"{times['nothing'] * 1e3:>16.1f}" for times in seconds))
    for name in [*a.kernels, "all of them"]:
        print(f"{name:16} " + " ".join(f"{times[name] / times['nothing']:>16.3f}" for times in seconds))


def measure(
    size: str, agent: str, kernels: Sequence[str], rounds: int, overrides: Sequence[str]
) -> dict[str, float]:
    """Return median processor seconds of an update, by what is left out: a kernel, nothing, or all."""
    off: dict[str, tuple[str, ...]] = {"nothing": (), **{name: (name,) for name in kernels}}
    off["all of them"] = tuple(native.KERNELS)
    settings = [f"agent={agent}", *SIZES[size], "threads=1", "logging.writers=[jsonl]", *overrides]
    with tempfile.TemporaryDirectory() as directory:
        run = Run(load_config(settings), Path(directory))
        for _ in range(1200):
            run.collector.step(random=True)
        seconds: dict[str, list[float]] = {name: [] for name in off}
        for i in range(rounds + 2):
            for name, kernels_off in off.items():
                with native.without(*kernels_off):
                    time = timed(run.learner.update)
                if i >= 2:  # the first ones allocate
                    seconds[name].append(time)
        run.close()
    return {name: median(times) for name, times in seconds.items()}


def timed(work: Callable[[], object]) -> float:
    begin = process_time()
    work()
    return process_time() - begin


if __name__ == "__main__":
    main()

"""Does it pay to step environments side by side, and in processes of their own?

    python -m benchmarks.vector_environments --env CartPole crafter

For each environment and env.num_envs, with random actions, in this process (env.vectorization=sync) and in
one process each (async: Gymnasium's AsyncVectorEnv, observations in shared memory): environment steps a
second of wall time, which a busy machine distorts, and CPU time of all processes for a step, which it does
not. All take turns, several times; the table has medians. Learning is not in it, nor acting, which costs
little more for N environments at once than for one.
"""

import argparse
import multiprocessing
import os
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Literal

import numpy as np

from qdreamer.agents.cli.composition import load_config
from qdreamer.envs.config import EnvConfig
from qdreamer.envs.entries import ACTION_MASK
from qdreamer.envs.factory import describe, make_vector

Way = Literal["sync", "async"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", nargs="+", default=["CartPole", "crafter"], help="presets")
    parser.add_argument("--num-envs", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--seconds", type=float, default=2.0, help="of each turn")
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    print(f"steps/s, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print("\n| environment | env.num_envs | steps/s, sync | async | CPU µs a step, sync | async |")
    print("|---|---|---|---|---|---|")
    for name in arguments.env:
        config = load_config([f"env={name}"]).env
        for count in arguments.num_envs:
            found: dict[Way, list[tuple[float, float]]] = {"sync": [], "async": []}
            for _ in range(arguments.turns):
                for way, costs in found.items():
                    costs.append(cost(replace(config, vectorization=way), count, arguments.seconds))
            (wall, cpu), (wall_async, cpu_async) = (
                [median(column) for column in zip(*costs, strict=True)] for costs in found.values()
            )
            speeds = f"{1 / wall:,.0f} | {1 / wall_async:,.0f}"
            print(f"| {name} | {count} | {speeds} | {1e6 * cpu:,.0f} | {1e6 * cpu_async:,.0f} |", flush=True)


def cost(config: EnvConfig, count: int, seconds: float) -> tuple[float, float]:
    """Return seconds of wall time and of CPU time for each environment step of `count` copies."""
    envs, random, action = make_vector(config, count), np.random.default_rng(0), describe(config).action
    try:
        observation, _ = envs.reset(seed=list(range(count)))
        steps, begin, used = 0, perf_counter(), cpu_seconds()
        while perf_counter() - begin < seconds:
            chosen = action.random(count, random, observation.get(ACTION_MASK))
            observation, _, terminal, truncated, _ = envs.step(chosen)
            if (done := terminal | truncated).any():
                observation, _ = envs.reset(seed=list(range(count)), options={"reset_mask": done})
            steps += count
        return (perf_counter() - begin) / steps, (cpu_seconds() - used) / steps
    finally:
        envs.close()


def cpu_seconds() -> float:
    """Return what this process and its workers have used (Linux)."""
    ticks = 0
    for worker in multiprocessing.active_children():
        fields = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])  # user and system
    return process_time() + ticks / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()

"""Which batch size has the highest throughput within a limit of memory.

    python -m benchmarks.batch_size --memory 2.0 env=CartPolePixels agent=classical

Batch sizes are doubled as long as the memory that a line through the last two forecasts stays within the
limit (GB, of the whole process, without the rows of replay). Each size has a process of its own, which the
system stops should it want more. Printed is the whole curve, and the size at which most replayed steps are
learned from in a second. That is speed alone: with train.replay_ratio as it is, twice the batch means half as
many updates.
"""

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import NamedTuple

LARGEST = 2**14
MARGIN = 1.03  # of the forecast


class Measured(NamedTuple):
    """What one batch size took."""

    batch: int
    gigabytes: float  # the process's most
    steps: float  # replayed steps per second


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--memory", type=float, required=True, help="limit in GB")
    parser.add_argument(
        "--updates", type=int, default=3, choices=range(1, 101), metavar="N", help="of each size, 1 to 100"
    )
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("settings", nargs="*", help="of train.py")
    a = parser.parse_args()
    if a.one is not None:
        print(json.dumps(_measure_here(a.one, a.memory, a.updates, a.settings)))
        return
    print("| B | GB | replayed steps/s |\n|---|---|---|")
    found = curve(a.memory, lambda batch: _measure(batch, a.memory, a.updates, a.settings), _show)
    if not found:
        sys.exit(f"error: not even a batch of 1 fits into --memory {a.memory:g} GB")
    best = max(found, key=lambda one: one.steps)
    print(f"train.batch_size={best.batch} is the fastest within {a.memory:g} GB")


def curve(
    limit: float,
    measure: Callable[[int], Measured | None],
    show: Callable[[Measured], None] = lambda one: None,
) -> list[Measured]:
    """Return what batch sizes 1, 2, 4, … took, as far as the limit in GB allows.

    `measure` returns None for a size that was stopped.
    """
    found: list[Measured] = []
    batch = 1
    while batch <= LARGEST and _forecast(found, batch) * MARGIN <= limit:
        one = measure(batch)
        if one is None or one.gigabytes > limit:
            break
        show(one)
        found.append(one)
        batch *= 2
    return found


def _forecast(found: list[Measured], batch: int) -> float:
    """Memory is a constant and something for each sequence: a line through the last two sizes."""
    if len(found) < 2:
        return 0.0
    (b0, m0, _), (b1, m1, _) = found[-2:]
    return m1 + max(m1 - m0, 0.0) / (b1 - b0) * (batch - b1)


def _show(one: Measured) -> None:
    print(f"| {one.batch} | {one.gigabytes:.2f} | {one.steps:,.0f} |", flush=True)


def _measure(batch: int, limit: float, updates: int, settings: list[str]) -> Measured | None:
    options = ["--one", str(batch), "--memory", str(limit), "--updates", str(updates)]
    child = subprocess.run(
        [sys.executable, "-m", "benchmarks.batch_size", *options, *settings], capture_output=True, text=True
    )
    if child.returncode == 0:
        return Measured(*json.loads(child.stdout.splitlines()[-1]))
    said = "".join(child.stderr.strip().splitlines()[-1:]) or f"exit code {child.returncode}"
    if said.startswith("error: "):  # settings that are refused, in a line that says so
        sys.exit(said)
    print(f"| {batch} | ended, for want of memory: {said} | |", flush=True)
    return None


def _measure_here(batch: int, limit: float, updates: int, settings: list[str]) -> Measured:
    from qdreamer.agents.cli.composition import load_config
    from qdreamer.agents.training.training import Run
    from qdreamer.configs.schema import ConfigError

    try:
        config = load_config(["threads=1", *settings, f"train.batch_size={batch}", "logging.writers=[jsonl]"])
        rows = 2 * config.train.batch_length + 200  # a full buffer would take what no batch size does
        config = replace(config, replay=replace(config.replay, capacity=config.env.num_envs * rows))
    except ConfigError as error:
        sys.exit(f"error: {error}")
    with tempfile.TemporaryDirectory() as directory:
        run = Run(config, Path(directory))
        # Pages of libraries count as memory, but not for this limit of the system's.
        room = int(limit * 1e9) - _kilobytes("RssFile") * 1024
        resource.setrlimit(resource.RLIMIT_DATA, (max(room, 0), max(room, 0)))
        for _ in range(2 * config.train.batch_length + 100):
            run.collector.step(random=True)
        times = []
        for _ in range(updates + 1):
            begin = perf_counter()
            run.learner.update()
            times.append(perf_counter() - begin)
        run.close()
    steps = batch * config.train.batch_length / median(times[1:])
    return Measured(batch, _kilobytes("VmHWM") * 1024 / 1e9, steps)


def _kilobytes(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


if __name__ == "__main__":
    main()

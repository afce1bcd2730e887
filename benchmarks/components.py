"""Time and memory of an update by part: python -m benchmarks.components [settings of train.py …].

    python -m benchmarks.components env=CartPolePixels agent=classical world_model.checkpointing=true

Of each part of an update: milliseconds (median), and the most memory that tensors hold in it beyond what is
there all the time. That is listed below, by component: weights, gradients and the optimizer's state, and the
rows of replay. On a CPU; for the seconds of a whole run see `time/…` in its log.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.training.learner import Learner
from qdreamer.agents.training.training import Run
from qdreamer.configs.schema import ConfigError

MARK = "part of an update: "


class Part(NamedTuple):
    """What a part of an update takes."""

    milliseconds: float
    peak: int  # bytes, beyond what is there all the time


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--updates", type=int, default=10)
    parser.add_argument("settings", nargs="*", help="of train.py")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        try:
            run = Run(load_config(["threads=1", *a.settings, "logging.writers=[jsonl]"]), Path(directory))
        except ConfigError as error:
            sys.exit(f"error: {error}")
        train = run.config.train
        for _ in range(2 * train.batch_length + train.batch_size + 200):
            run.collector.step(random=True)
        parts = measure(run.learner, a.updates)
        print(f"B={train.batch_size} T={train.batch_length}, one update\n")
        print("| part | ms | share | MB at the most |\n|---|---|---|---|")
        total = sum(part.milliseconds for part in parts.values())
        for name, part in parts.items():
            share = part.milliseconds / total
            print(f"| {name} | {part.milliseconds:.1f} | {share:.0%} | {part.peak / 1e6:,.1f} |")
        print(f"| all | {total:.1f} | | {max(part.peak for part in parts.values()) / 1e6:,.1f} |\n")
        print("| component | parameters | MB with gradients and optimizer |\n|---|---|---|")
        for name, (parameters, held) in standing(run.learner).items():
            print(f"| {name} | {parameters:,} | {held / 1e6:,.2f} |")
        memory, files = run.replay.full_bytes()
        print(f"| replay when full, in memory | | {memory / 1e6:,.2f} |")
        print(f"| replay when full, in files | | {files / 1e6:,.2f} |")
        run.close()


def measure(learner: Learner, updates: int) -> dict[str, Part]:
    """Return the parts of an update, in the order of their names' first use."""
    learner.update()
    times: dict[str, list[float]] = {}
    for _ in range(updates):
        learner.watch.seconds.clear()
        learner.update()
        for name, seconds in learner.watch.seconds.items():
            times.setdefault(name, []).append(seconds * 1e3)
    peaks = peak_by_part(learner)
    return {name: Part(median(values), peaks[name]) for name, values in times.items()}


def peak_by_part(learner: Learner) -> dict[str, int]:
    """Return the most bytes that tensors hold in each part, beyond those before the update."""

    @contextmanager
    def marked(name: str) -> Iterator[None]:
        with record_function(MARK + name):
            yield

    learner.optimizer.zero_grad(set_to_none=True)
    watch, learner.watch = learner.watch, marked  # type: ignore[assignment]
    try:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            learner.update()
    finally:
        learner.watch = watch
    events = sorted(profiled.profiler.kineto_results.events(), key=lambda e: e.start_ns())
    spans = [
        (e.name().removeprefix(MARK), e.start_ns(), e.end_ns()) for e in events if e.name().startswith(MARK)
    ]
    held, peaks = 0, {name: 0 for name, _, _ in spans}
    for event in events:
        if event.name() == "[memory]":
            held += event.nbytes()
            for name, begin, end in spans:
                if begin <= event.start_ns() <= end:
                    peaks[name] = max(peaks[name], held)
    return peaks


def standing(learner: Learner) -> dict[str, tuple[int, int]]:
    """Return each component's parameters, and the bytes of these, of gradients and of optimizer state."""
    found = {}
    for name, module in learner.agent.parts().items():
        parameters = [p for p in module.parameters() if p.requires_grad]
        state = [x for p in parameters for x in learner.optimizer.state[p].values() if torch.is_tensor(x)]
        held = sum(2 * p.nbytes for p in parameters) + sum(x.nbytes for x in state)
        found[name] = sum(p.numel() for p in parameters), held
    return found


if __name__ == "__main__":
    main()

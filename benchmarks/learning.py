"""Steps and seconds to a threshold, by seed: python -m benchmarks.learning --seeds 0 1 2 3 4.

Runs `train.py` once per seed (one thread each, `--jobs` side by side), then evaluates each final
agent on fresh episodes. Finished runs are not repeated and broken ones resume, so the script can
be stopped and started again. Everything after `--` goes to train.py.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.interaction.evaluation import Evaluator, mean_and_interval
from qdreamer.agents.runs.run_directory import read_config, run_directory
from qdreamer.agents.training.loading import load_agent

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Row:
    """What one seed reached."""

    seed: int
    steps: int | None  # first evaluation at or over the threshold
    seconds: float | None
    best: float
    last_three: float
    fresh: tuple[float, float, float]  # mean return of the final agent on fresh episodes, interval


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="CartPole")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--threshold", type=float, help="default: the env config's `solved`")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    parser.add_argument("--fresh", type=int, default=100, help="fresh episodes for the final agent")
    parser.add_argument("overrides", nargs="*", help="settings for train.py, after --")
    a = parser.parse_args()
    commands = [[f"env={a.env}", f"seed={seed}", *a.overrides] for seed in a.seeds]
    # Hydra composes one configuration at a time: not in the threads.
    directories = [run_directory(load_config(command), a.env, command) for command in commands]
    with ThreadPoolExecutor(a.jobs) as pool:
        list(pool.map(train, commands))
    rows = [summarise(d, s, a.threshold, a.fresh) for d, s in zip(directories, a.seeds, strict=True)]
    print_table(a.env, rows, a.fresh)


def train(arguments: list[str]) -> None:
    """Run train.py to its end."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *arguments], env=environment, stdout=subprocess.DEVNULL
    )
    if result.returncode:
        sys.exit(f"train.py {' '.join(arguments)} ended with exit code {result.returncode}")


def read_metrics(directory: Path, name: str) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl that hold `name`."""
    lines = map(json.loads, (directory / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if name in line]


def summarise(directory: Path, seed: int, threshold: float | None, fresh: int) -> Row:
    config = read_config(directory)
    goal = config.env.solved if threshold is None else threshold
    evaluations = read_metrics(directory, "eval/return")
    scores = [line["eval/return"] for line in evaluations]
    reached = [line for line in evaluations if goal is not None and line["eval/return"] >= goal]
    evaluator = Evaluator(config.env, fresh, config.evaluation.seed + 1, config.evaluation.deterministic)
    episodes = evaluator.run(load_agent(directory, config))
    evaluator.close()
    return Row(
        seed,
        reached[0]["step"] if reached else None,
        reached[0]["time/eval_at"] if reached else None,
        max(scores),
        sum(scores[-3:]) / len(scores[-3:]),
        mean_and_interval([episode.score for episode in episodes]),
    )


def print_table(env: str, rows: list[Row], fresh: int) -> None:
    print(f"{env}: evaluations on unseen seeds; last column: final agent on {fresh} fresh episodes")
    print("| seed | steps to threshold | seconds | best | last three | fresh episodes [95 %] |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        steps = "not reached" if row.steps is None else f"{row.steps}"
        seconds = "–" if row.seconds is None else f"{row.seconds:.0f}"
        mean, low, high = row.fresh
        print(
            f"| {row.seed} | {steps} | {seconds} | {row.best:.1f} | {row.last_three:.1f} "
            f"| {mean:.1f} [{low:.1f}, {high:.1f}] |"
        )
    reached = [row for row in rows if row.steps is not None]
    if len(reached) == len(rows):
        print(
            f"median: {median(r.steps for r in reached if r.steps):.0f} steps, "
            f"{median(r.seconds for r in reached if r.seconds):.0f} s"
        )
    else:
        print(f"{len(reached)} of {len(rows)} seeds reached the threshold")


if __name__ == "__main__":
    main()

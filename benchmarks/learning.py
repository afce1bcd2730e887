"""Steps and seconds to a threshold, by seed: python -m benchmarks.learning --seeds 0 1 2 3 4.

Runs `train.py` once per seed, `--jobs` side by side, which share the cores; then evaluates each final agent
on fresh episodes. Finished runs are not repeated and broken ones resume, so the script can be stopped and
started again. With --until-solved a run is interrupted (and saves) at its first evaluation at the threshold:
with `--jobs 1` on an idle machine that takes the time, and the same command without it and with more jobs
finishes the runs. Everything after `--` goes to train.py.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.interaction.evaluation import Evaluator, mean_and_interval
from qdreamer.agents.runs.cores import usable_cores
from qdreamer.agents.runs.run_directory import check_same_run, read_config, read_summary, run_directory
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
    parser.add_argument("--until-solved", action="store_true", help="interrupt runs at the threshold")
    parser.add_argument("overrides", nargs="*", help="settings for train.py, after --")
    a = parser.parse_args()
    commands = [[f"env={a.env}", f"seed={seed}", *a.overrides] for seed in a.seeds]
    configs = [load_config(command) for command in commands]
    runs = [Training(c, run_directory(config, a.env, c)) for c, config in zip(commands, configs, strict=True)]
    goal = configs[0].env.solved if a.threshold is None else a.threshold
    if a.until_solved and goal is None:
        parser.error(f"env={a.env} has no threshold: give one by --threshold")
    for run, config in zip(runs, configs, strict=True):
        check_same_run(run.directory, config)
    threads = usable_cores(a.jobs)
    with ThreadPoolExecutor(a.jobs) as pool:
        list(pool.map(lambda run: run.train(threads, goal if a.until_solved else None), runs))
    rows = [summarise(run.directory, seed, goal, a.fresh) for run, seed in zip(runs, a.seeds, strict=True)]
    print_table(a.env, rows, a.fresh)


@dataclass(frozen=True)
class Training:
    """A run, by the words that train.py is given."""

    words: list[str]
    directory: Path

    def train(self, threads: int, stop: float | None) -> None:
        """Go on to the run's end, or until an evaluation reaches `stop` and the run has saved."""
        if self._saved(stop):
            return
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        command = [sys.executable, str(ROOT / "train.py"), *self.words]
        asked = False
        with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
            while process.poll() is None:
                time.sleep(0.5)
                if stop is not None and not asked and reached(self.directory, stop):
                    process.send_signal(signal.SIGINT)
                    asked = True
        if process.returncode and not (asked and process.returncode == 128 + signal.SIGINT):
            sys.exit(f"train.py {' '.join(self.words)} ended with exit code {process.returncode}")

    def _saved(self, stop: float | None) -> bool:
        """Tell whether what reached `stop` is saved, too: evaluations are logged before that."""
        solved = None if stop is None else reached(self.directory, stop)
        return solved is not None and read_summary(self.directory).get("step", 0) >= solved["step"]


def reached(directory: Path, goal: float) -> dict[str, Any] | None:
    """Return the first evaluation at or over the goal, if there is one."""
    return next(
        (line for line in read_metrics(directory, "eval/return") if line["eval/return"] >= goal), None
    )


def read_metrics(directory: Path, name: str) -> list[dict[str, Any]]:
    """Whole lines of metrics.jsonl that hold `name`."""
    file = directory / "metrics.jsonl"
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    return [values for values in map(json.loads, lines) if name in values]


def summarise(directory: Path, seed: int, goal: float | None, fresh: int) -> Row:
    config = read_config(directory)
    scores = [line["eval/return"] for line in read_metrics(directory, "eval/return")]
    solved = None if goal is None else reached(directory, goal)
    evaluator = Evaluator(config.env, fresh, config.evaluation.seed + 1, config.evaluation.deterministic)
    episodes = evaluator.run(load_agent(directory, config))
    evaluator.close()
    return Row(
        seed,
        solved["step"] if solved else None,
        solved["time/eval_at"] if solved else None,
        max(scores),
        sum(scores[-3:]) / len(scores[-3:]),
        mean_and_interval([episode.score for episode in episodes]),
    )


def print_table(env: str, rows: list[Row], fresh: int) -> None:
    print(f"{env}: evaluations on unseen seeds; last column: the agent as left, on {fresh} fresh episodes")
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
    solved = [row for row in rows if row.steps is not None]
    print(f"{len(solved)} of {len(rows)} seeds reached the threshold")
    if len(solved) == len(rows):
        print(
            f"median: {median(r.steps for r in solved if r.steps):.0f} steps, "
            f"{median(r.seconds for r in solved if r.seconds):.0f} s from the start of training"
        )


if __name__ == "__main__":
    main()

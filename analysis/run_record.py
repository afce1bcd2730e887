"""A run as comparisons see it: its settings, its evaluations, its costs, read from its directory."""

import functools
import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from qdreamer.analysis.aggregates import Floats
from qdreamer.analysis.run_form import CONFIG, LINE, SUMMARY, CompareError, UnfinishedError, formed
from qdreamer.configs.console import one_line
from qdreamer.configs.sealed_file import read_json

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C where there is one: ten times faster
_SEED = re.compile(r"^seed: (\d+)$", re.MULTILINE)
CLOCK = "time/"  # names that depend on the machine
_AGAIN = "run the same training command again"


@dataclass(frozen=True)
class Costs:
    """What a run took; None where an old run did not record it."""

    updates: int
    seconds: float  # wall-clock, of all sessions
    classical_parameters: int | None = None
    quantum_parameters: int | None = None
    circuits: int | None = None
    shots: int | None = None
    simulator_seconds: float | None = None
    qpu_seconds: float | None = None
    quantum_share: float | None = None  # of the wall-clock, in quantum jobs and searches


@dataclass(frozen=True, eq=False)
class RunRecord:
    """One finished run."""

    directory: Path
    agent: str  # name of the directory above
    seed: int
    config: dict[str, Any]
    steps: Floats  # (T,), of the evaluations
    returns: Floats  # (T,), mean over the episodes of each
    seconds: Floats  # (T,), wall-clock since the run began
    costs: Costs
    versions: tuple[tuple[str, str | None], ...] | None  # of code and libraries; None: an old run
    commits: tuple[str, ...]
    processors: tuple[str, ...]
    threads: tuple[int, ...]  # that its sessions took
    stream: str  # hash of all metrics but the clock's

    @property
    def budget(self) -> float:
        """Return the run's environment steps."""
        return float(self.config["steps"])

    @property
    def final(self) -> float:
        """Return the mean of the last three evaluations."""
        return float(self.returns[-3:].mean())


def find_runs(folder: Path) -> list[Path]:
    """Find runs <agent>/seed_<k> in the folder of one environment. Raises CompareError without any."""
    found = sorted(path.parent for path in folder.glob("*/seed_*/config.yaml"))
    if found:
        return found
    if not folder.is_dir():
        raise CompareError(f"{folder} is not a folder")
    inside = sorted({path.parents[2] for path in folder.glob("*/*/seed_*/config.yaml")})
    hint = f": choose one environment, as {inside[0]}" if inside else ": give runs/<env>"
    raise CompareError(f"{folder} holds no runs <agent>/seed_<k>{hint}")


def read_finished(directories: Sequence[Path]) -> tuple[list[RunRecord], list[str]]:
    """Read the runs that are finished, and return notes on those that are left out.

    Raises CompareError if none is, or as `read_run`.
    """
    runs, notes = [], []
    for directory in directories:
        try:
            runs.append(read_run(directory))
        except UnfinishedError as error:
            notes.append(f"Left out: {error}.")
    if not runs:
        raise CompareError(notes[0].removeprefix("Left out: ").removesuffix("."))
    return runs, notes


def read_run(directory: Path) -> RunRecord:
    """Read a run. Raises CompareError if it is broken or holds a value that is not finite.

    UnfinishedError is raised for one that its training command goes on with.
    """
    config = _read_config(directory)
    steps, returns, seconds, updates, elapsed = [], [], [], 0, 0.0
    digest = hashlib.sha256()
    for line in _lines(directory):
        _check_finite(line, directory)
        digest.update(repr([(k, v) for k, v in line.items() if not k.startswith(CLOCK)]).encode())
        if "eval/return" in line:
            steps.append(int(line["step"]))
            returns.append(line["eval/return"])
            seconds.append(line.get("time/eval_at", math.nan))
        updates = line.get("updates", updates)
        elapsed = line.get("time/seconds", elapsed)
    if not steps:
        raise UnfinishedError(f"{directory} has no evaluations: train it to the end")
    if any(late <= early for early, late in itertools.pairwise(steps)):
        raise CompareError(f"{directory} has evaluations that go back in steps: train it anew")
    if len(steps) > 1 and steps[-2] >= config["steps"]:
        raise CompareError(
            f"{directory} has evaluations up to step {steps[-1]}, beyond its budget of {config['steps']} "
            f"steps: set steps in its config.yaml back to {steps[-1]}"
        )
    if steps[-1] < config["steps"]:
        raise UnfinishedError(
            f"{directory} is not finished ({steps[-1]} of {config['steps']} steps): "
            "run its training command again"
        )
    if not np.isfinite(seconds).all():
        raise CompareError(f"{directory} has evaluations without time/eval_at: train it anew")
    summary = _read_summary(directory)
    sessions = summary.get("sessions", [])
    return RunRecord(
        directory,
        directory.parent.name,
        int(config["seed"]),
        config,
        np.array(steps, np.float64),
        np.array(returns, np.float64),
        np.array(seconds, np.float64),
        _costs(summary, int(updates), float(max(elapsed, seconds[-1]))),
        tuple({item: None for s in sessions for item in sorted(s["versions"].items())}) or None,
        tuple(sorted({s["commit"] for s in sessions if s["commit"]})),
        tuple(sorted({str(s["machine"].get("processor")) for s in sessions})),
        tuple(sorted({s.get("threads", 1) for s in sessions})),
        digest.hexdigest(),
    )


def _read_config(directory: Path) -> dict[str, Any]:
    try:
        text = (directory / "config.yaml").read_text(encoding="utf-8")
        seed = _SEED.search(text)
        if seed is None:
            raise ValueError("it has no seed")
        # Runs of one agent differ in nothing else, and reading YAML is slow: once for all seeds.
        rest = _SEED.sub("", "\n".join(line for line in text.splitlines() if not line.startswith("#")))
        values = {**_parse(rest), "seed": int(seed[1])}
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError, ValueError, RecursionError) as error:
        raise CompareError(f"{directory}/config.yaml cannot be read: {one_line(error)}") from error
    return formed(CONFIG, values, directory / "config.yaml", "put it back, or leave the run out")


@functools.cache
def _parse(text: str) -> dict[str, Any]:
    return dict(yaml.load(text, _Loader))


def _lines(directory: Path) -> Iterator[dict[str, Any]]:
    path = directory / "metrics.jsonl"
    number = 0
    try:
        for text in path.read_text(encoding="utf-8").splitlines():
            number += 1
            yield formed(LINE, json.loads(text), f"{path}, line {number},", "train the run anew")
    except CompareError:
        raise
    except OSError as error:
        raise CompareError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CompareError(f"{path} is damaged in line {number}: train the run anew") from error


def _check_finite(line: dict[str, Any], directory: Path) -> None:
    for name, value in line.items():
        if value is None or not math.isfinite(value):
            raise CompareError(
                f"{directory} diverged: {name} is not finite at step {line.get('step')}; "
                "it counts as no result, so repair it or leave the whole agent out"
            )


def _read_summary(directory: Path) -> dict[str, Any]:
    path = directory / "summary.json"
    if not path.exists():
        return {}
    try:
        values = read_json(path)
    except (OSError, ValueError, RecursionError) as error:
        raise CompareError(f"{path} cannot be read ({one_line(error)}): {_AGAIN}") from error
    return formed(SUMMARY, values, path, _AGAIN)


def _costs(summary: dict[str, Any], updates: int, seconds: float) -> Costs:
    if not summary:
        return Costs(updates, seconds)
    quantum, parameters = summary["quantum"], summary["parameters"]
    return Costs(
        int(summary["updates"]),
        float(summary["seconds"]),
        parameters["classical"],
        parameters["quantum"],
        quantum["circuits"],
        quantum["shots"],
        quantum["simulator_seconds"],
        quantum["qpu_seconds"],
        quantum["seconds"] / summary["seconds"] if summary["seconds"] else 0.0,
    )

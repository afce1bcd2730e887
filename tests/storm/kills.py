"""Runs that are killed at random instants, again and again, and must end as if nothing had happened."""

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
INTERVAL = 20 + 2  # steps from one checkpoint to the next, and those of an iteration
_BEGIN = r"(?:resuming at step (\d+)|starting|already has (\d+) steps.*)$"
PATIENCE = 60.0  # seconds that a kill waits for a save
SMALL = [
    "env=CartPole", "world_model.units=16", "world_model.hidden=16",
    "world_model.stoch=4", "world_model.classes=4", "train.batch_size=4", "train.batch_length=16",
    "train.replay_ratio=32", "train.prefill=64", "evaluation.every=100", "evaluation.episodes=3",
    "evaluation.horizon=10", "checkpoint.every=20", "logging.every=50", "logging.writers=[jsonl]",
]  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """A kind of run: its settings, and what starts `train.py`."""

    settings: list[str]
    launcher: list[str] = field(default_factory=list)
    runs: int = 1  # runs of the command


_CLASSICAL = ["agent=classical", "world_model.deter=16"]
_FAKE = ["quantum=ibm", "quantum.device=FakeManilaV2", "replay.wait=true", "optimizer.wait=true"]
_TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
KINDS = {
    "vectors": Kind([*_CLASSICAL, "steps=2000"]),
    "mapped replay": Kind([*_CLASSICAL, "replay.mapped=true", "steps=2000"]),
    "fake device": Kind(["agent=hybrid", *_FAKE, "optimizer.num_qubits=4", "steps=400"]),
    "sweep": Kind(["-m", *_CLASSICAL, "seed=0,1", "launcher.jobs=2", "steps=800"], runs=2),
    "two ranks": Kind([*_CLASSICAL, "steps=1000"], _TORCHRUN),
}


@dataclass
class Tally:
    """What came of a kind's kills."""

    kills: int = 0
    saving: int = 0  # of them while a file was being replaced
    runs: int = 0
    corrupt: int = 0  # warnings of something damaged
    lost: int = 0  # starts that went back by more than a checkpoint
    failed: int = 0  # commands that could not go on
    unequal: int = 0  # runs that did not end as the unbroken one


def start(kind: Kind, runs: Path) -> "subprocess.Popen[str]":
    """Start a command; what it says goes to a file beside `runs`."""
    with said(runs).open("a", encoding="utf-8") as output:
        return subprocess.Popen(
            [sys.executable, *kind.launcher, "train.py", *kind.settings, *SMALL, f"runs={runs}"],
            cwd=ROOT, text=True, stdout=output, stderr=output, start_new_session=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip


def said(runs: Path) -> Path:
    return runs.with_name(f"{runs.name}.txt")


def unbroken(kind: Kind, runs: Path) -> tuple[list[Any], float]:
    """Return what a run logs that nobody disturbs, and how long it takes in seconds."""
    begin = time.monotonic()
    if start(kind, runs).wait(1800):
        raise RuntimeError(f"an undisturbed run failed: {said(runs).read_text()[-2000:]}")
    return logged(runs), time.monotonic() - begin


def logged(runs: Path) -> list[Any]:
    """Return all lines of all runs, without what depends on the clock."""
    lines = []
    for path in sorted(runs.rglob("metrics.jsonl")):
        for text in path.read_text(encoding="utf-8").splitlines():
            lines.append({k: v for k, v in json.loads(text).items() if not k.startswith("time/")})
    return lines


def batter(kind: Kind, runs: Path, expected: list[Any], seconds: float, chance: random.Random) -> Tally:
    """Kill one command at random instants until it comes through, and compare its end.

    Every second kill waits for a file that is being replaced, so that it falls within a save.
    """
    tally, reached, starts = Tally(runs=kind.runs), 0, 0
    while True:
        process = start(kind, runs)
        deadline = time.monotonic() + chance.uniform(0.1, 0.7) * seconds
        saving = _kill(process, runs, deadline, wait_for_save=chance.random() < 0.5)
        process.wait()
        begun = re.findall(_BEGIN, said(runs).read_text(), re.MULTILINE)
        if len(begun) > starts and kind.runs == 1:  # else it was killed before it said where it goes on
            tally.lost += reached - int("".join(begun[-1]) or 0) > INTERVAL
        starts = len(begun)
        if saving is None:
            break
        tally.kills += 1
        tally.saving += saving
        reached = max([0, *(line["step"] for line in whole_lines(runs))])
    text = said(runs).read_text() + "".join(path.read_text() for path in runs.rglob("console.log"))
    tally.corrupt = text.count("takes its place") + text.count("error: ")
    tally.failed = int(process.returncode != 0)
    tally.unequal = int(logged(runs) != expected)
    return tally


def _kill(process: "subprocess.Popen[str]", runs: Path, deadline: float, wait_for_save: bool) -> bool | None:
    """Kill a process and all it started; return whether that was within a save, None if it came through."""
    while process.poll() is None:
        late = time.monotonic() - deadline
        if late > 0 and (not wait_for_save or late > PATIENCE or any(runs.rglob("*.tmp"))):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            return any(runs.rglob("*.tmp"))
        time.sleep(0.0005 if late > 0 else 0.02)
    return None


def whole_lines(runs: Path) -> Iterator[Any]:
    """Yield what the log of a run that was killed holds, but for half a line at its end."""
    for path in runs.rglob("metrics.jsonl"):
        for text in path.read_text(encoding="utf-8").splitlines(keepends=True):
            if text.endswith("\n"):
                yield json.loads(text)

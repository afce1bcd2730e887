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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.storm import forks

STEPS_LOST = 20 + 2  # at most: from one checkpoint to the next, and those of an iteration
STARTED = re.compile(r"^(\S+) (?:·.*· (?:starting|resuming at step (\d+))|already has (\d+) steps.*)$", re.M)
NOTICED = "error: another process of this run has ended"  # what a rank says, as it should, of a killed one
PATIENCE = 30.0  # seconds that a kill waits for a save
TOO_LONG = 900.0  # seconds without an end or a kill: the run hangs
SMALL = [
    "world_model.units=16", "world_model.hidden=16",
    "world_model.stoch=4", "world_model.classes=4", "train.batch_size=4", "train.batch_length=16",
    "train.replay_ratio=16", "train.prefill=64", "agent.imagination_horizon=5", "evaluation.every=100",
    "evaluation.episodes=3", "evaluation.max_steps=50", "evaluation.horizon=10",
    "checkpoint.every=20", "logging.every=10", "logging.writers=[jsonl]",
]  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """A kind of run, and how long a kill waits after the run began, at most, in seconds."""

    settings: list[str]
    window: float = 3.0
    ranks: int = 1
    threads: bool = False  # planning it starts threads (Qiskit's), which no fork survives
    sweep: bool = False  # the command trains in processes of its own, which have no fault to be armed


_CLASSICAL = ["env=CartPole", "agent=classical", "world_model.deter=16"]
_IMAGES = ["env=gym", "env.id=tests.storm.dots:Dot-v0", "agent=classical", "world_model.deter=16"]
_FAKE = [  # a killed run pays again for jobs that were on their way, and must not come to its budget
    "quantum=ibm", "quantum.device=FakeManilaV2", "quantum.budget_seconds=100000",
    "replay.wait=true", "optimizer.wait=true",
]  # fmt: skip
KINDS = {
    "vectors": Kind([*_CLASSICAL, "steps=1000"]),
    "images in mapped replay": Kind(
        [*_IMAGES, "world_model.image.depth=4", "replay.mapped=true", "steps=500"]
    ),
    "hybrid on a fake device": Kind(  # whose steps take longer, as does its start
        ["env=CartPole", "agent=hybrid_with_optimizer", *_FAKE, "optimizer.num_qubits=4", "steps=140"],
        window=15.0,
        threads=True,
    ),
    "sweep": Kind(["-m", *_CLASSICAL, "seed=0,1", "launcher.jobs=2", "steps=300"], window=6.0, sweep=True),
    "two ranks": Kind([*_CLASSICAL, "steps=500"], ranks=2),
}
SHORT = {"short": Kind([*_CLASSICAL, "steps=140"], window=0.5)}
"""For the tests."""


@dataclass
class Tally:
    """What came of a kind's kills."""

    runs: int = 0
    kills: int = 0
    saving: int = 0  # of them while a file was being replaced
    corrupt: int = 0  # warnings of something damaged
    lost: int = 0  # starts that went back by more than a checkpoint
    failed: int = 0  # commands that could not go on, or hung
    unequal: int = 0  # runs that did not end as the unbroken one

    def add(self, other: "Tally") -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def sound(self) -> bool:
        return not (self.corrupt or self.lost or self.failed or self.unequal)


def words(kind: Kind, runs: Path) -> list[str]:
    return [*kind.settings, *SMALL, f"runs={runs}"]


def said(runs: Path) -> Path:
    return runs.with_name(f"{runs.name}.txt")


def unbroken(kind: Kind, runs: Path) -> list[Any]:
    """Return what a run logs that nobody disturbs, started as a user starts it."""
    launcher = (
        [] if kind.ranks == 1 else ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    )
    with said(runs).open("w", encoding="utf-8") as output:
        code = subprocess.run(
            [sys.executable, *launcher, "train.py", *words(kind, runs)],
            cwd=forks.ROOT, stdout=output, stderr=output, timeout=1800,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        ).returncode  # fmt: skip
    if code:
        raise RuntimeError(f"an undisturbed run failed: {said(runs).read_text()[-2000:]}")
    return logged(runs)


def logged(runs: Path) -> list[Any]:
    """Return all lines of all runs, without what depends on the clock."""
    lines = []
    for path in sorted(runs.rglob("metrics.jsonl")):
        for text in path.read_text(encoding="utf-8").splitlines():
            lines.append({k: v for k, v in json.loads(text).items() if not k.startswith("time/")})
    return lines


def batter(kind: Kind, runs: Path, expected: list[Any], chance: random.Random) -> Tally:
    """Kill one command again and again until it comes through, and compare its end."""
    tally, reached = Tally(runs=1), dict[str, int]()
    while True:
        fault = None
        if not kind.sweep and chance.random() < 0.5:
            writes = chance.random() < 0.5
            fault = forks.Fault(chance.randrange(60 if writes else 10), writes, chance.random() < 0.5)
        before = _starts(runs)
        processes = forks.start(words(kind, runs), said(runs), kind.ranks, fault)
        codes = _kill(processes, runs, before, kind, fault, chance)
        for directory, steps in _starts(runs).items():
            new = steps[len(before.get(directory, ())) :]
            tally.lost += sum(reached.get(directory, 0) - step > STEPS_LOST for step in new)
        if codes is not None:
            break
        tally.kills += 1
        tally.saving += any(runs.rglob("*.tmp")) or (fault is not None and fault.struck)
        reached = dict(_reached(runs))
    output = text(runs).replace(NOTICED, "")
    tally.corrupt = output.count("takes its place") + output.count("error: ") + output.count("Traceback")
    tally.failed = int(any(codes))
    tally.unequal = int(logged(runs) != expected)
    return tally


def _kill(
    processes: list[int],
    runs: Path,
    before: dict[str, list[int]],
    kind: Kind,
    fault: forks.Fault | None,
    chance: random.Random,
) -> list[int] | None:
    """Kill all processes, one after the other; return their exit codes if they came through instead.

    One kill in ten comes before training began, the others within the kind's window after it, either at
    once, or at the armed fault, or as soon as a file is being replaced.
    """
    codes = dict[int, int]()
    due = time.monotonic() + TOO_LONG
    if early := chance.random() < 0.1:
        due = time.monotonic() + chance.uniform(0.0, kind.window)
    begun, wait_for_save = early, fault is not None or chance.random() < 0.3
    while len(codes) < len(processes):
        _reap(processes, codes)
        if signal.SIGKILL in (-code for code in codes.values()):  # at its fault
            time.sleep(chance.uniform(0.0, 0.2))
            break
        if not begun and _starts(runs) != before:
            begun, due = True, time.monotonic() + chance.uniform(0.0, kind.window)
        late = time.monotonic() - due
        if late > 0 and fault is not None:
            fault.arm()
        if late > 0 and (
            not wait_for_save or late > PATIENCE or (fault is None and any(runs.rglob("*.tmp")))
        ):
            if not begun:
                raise RuntimeError(f"a run hangs: {text(runs)[-2000:]}")
            break
        time.sleep(0.0005 if late > 0 and fault is None else 0.02)
    else:
        return list(codes.values())
    for process in chance.sample(processes, len(processes)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)
        if len(processes) > 1 and chance.random() < 0.5:  # does another notice?
            time.sleep(chance.uniform(0.0, 0.5))
    while len(codes) < len(processes):
        _reap(processes, codes)
        time.sleep(0.002)
    return None


def _reap(processes: list[int], codes: dict[int, int]) -> None:
    for process in processes:
        if process not in codes:
            found, status = os.waitpid(process, os.WNOHANG)
            if found:
                codes[process] = os.waitstatus_to_exitcode(status)


def text(runs: Path) -> str:
    """Return what a command and the runs that it started have said so far."""
    files = [said(runs), *sorted(runs.rglob("console.log"))]
    return "".join(path.read_text(errors="replace") for path in files if path.exists())


def _starts(runs: Path) -> dict[str, list[int]]:
    """Return the steps from which each run directory has gone on so far, in order."""
    starts: dict[str, list[int]] = {}
    for found in STARTED.finditer(text(runs)):
        starts.setdefault(found[1], []).append(int(found[2] or found[3] or 0))
    return starts


def _reached(runs: Path) -> Iterator[tuple[str, int]]:
    """Yield the last step of the log of each run, which may end in half a line."""
    for path in runs.rglob("metrics.jsonl"):
        whole = [
            line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line[-1] == "\n"
        ]
        yield str(path.parent), max((json.loads(line)["step"] for line in whole), default=0)

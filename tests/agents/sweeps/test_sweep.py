"""Sweeps: complete after any kill, nothing trained twice, one crash costs nobody else."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from qdreamer.agents.cli.command_line import prepare
from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.runs.lock import exclusive, is_locked
from qdreamer.agents.runs.run_directory import run_directory, write_config
from qdreamer.agents.sweeps import sweep
from qdreamer.agents.sweeps.sweep import Member, refuse_doubles
from qdreamer.configs.schema import ConfigError
from tests.fake_sweep import fake_members, fake_sweep

ROOT = Path(__file__).parents[3]
SMALL = [
    "world_model.units=16", "world_model.core=16", "world_model.hidden=16", "world_model.stoch=4",
    "world_model.classes=4", "train.batch_size=4", "train.replay_ratio=32", "train.prefill=64",
    "evaluation.every=100", "evaluation.episodes=2", "evaluation.horizon=10", "checkpoint.every=50",
    "logging.every=50", "logging.writers=[jsonl]", "steps=200",
]  # fmt: skip


def taken_steps(folder: Path) -> list[list[int]]:
    return [[int(x) for x in path.read_text().split()] for path in sorted(folder.glob("*/steps.txt"))]


@pytest.mark.processes
def test_runs_everything_once_and_skips_what_is_finished(tmp_path: Path) -> None:
    lines: list[str] = []
    assert fake_sweep(fake_members(tmp_path), 4, lines.append).run() == 0
    assert taken_steps(tmp_path) == [list(range(1, 11))] * 8
    assert lines[-1] == "8 of 8 runs are complete, 0 failed"
    assert fake_sweep(fake_members(tmp_path), 4, lines.append).run() == 0
    assert taken_steps(tmp_path) == [list(range(1, 11))] * 8
    assert "8 complete already" in lines[-2]


@pytest.mark.processes
def test_says_how_far_its_runs_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "_SHOW", 0.05)
    monkeypatch.setattr(sweep, "last_output_line", lambda directory: f"step 3/10 of {directory.name}")
    lines: list[str] = []
    assert fake_sweep(fake_members(tmp_path, ["good"]), 1, lines.append).run() == 0
    assert f"[0/1] {tmp_path}/seed_0 · step 3/10 of seed_0" in lines


@pytest.mark.processes
def test_one_crash_costs_nobody_else(tmp_path: Path) -> None:
    lines: list[str] = []
    kinds = ["good", "fail", "good", "good"]
    assert fake_sweep(fake_members(tmp_path, kinds), 2, lines.append).run() == 1
    assert [len(steps) for steps in taken_steps(tmp_path)] == [10, 3, 10, 10]
    assert lines[-2] == "3 of 4 runs are complete, 1 failed"
    assert "seed_1" in lines[-1] and "error: it broke (exit code 1)" in lines[-1]


@pytest.mark.processes
def test_a_sweep_killed_twice_at_random_ends_complete(tmp_path: Path) -> None:
    """Then it is left alone. No step of any run is taken twice, and none is missing."""
    command = [sys.executable, str(ROOT / "tests" / "fake_sweep.py"), str(tmp_path)]
    rng = random.Random(0)
    for _ in range(2):
        before = sum(map(len, taken_steps(tmp_path)))
        process = subprocess.Popen(command)
        begin = time.monotonic()
        while sum(map(len, taken_steps(tmp_path))) == before and time.monotonic() - begin < 60:
            time.sleep(0.02)
        time.sleep(rng.uniform(0.0, 0.4))
        process.kill()
        assert process.wait(60) == -signal.SIGKILL
    assert sum(map(len, taken_steps(tmp_path))) < 80, "it was killed too late to tell"
    assert subprocess.run(command, timeout=60).returncode == 0
    assert taken_steps(tmp_path) == [list(range(1, 11))] * 8


@pytest.mark.processes
def test_sigterm_lets_runs_save_and_the_rest_wait(tmp_path: Path) -> None:
    lines: list[str] = []
    timer = threading.Timer(0.4, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    assert fake_sweep(fake_members(tmp_path), 2, lines.append).run() == 128 + signal.SIGTERM
    assert "0 failed" in lines[-1] and "left: the same command goes on" in lines[-1]
    assert fake_sweep(fake_members(tmp_path), 4, lines.append).run() == 0
    assert taken_steps(tmp_path) == [list(range(1, 11))] * 8


@pytest.mark.processes
def test_waits_for_runs_that_others_train(tmp_path: Path) -> None:
    members = fake_members(tmp_path, ["good", "good"])
    holder = subprocess.Popen(
        [
            sys.executable, "-c",
            "import fcntl, sys\n"
            "file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_EX)\n"
            "print('held', flush=True); sys.stdin.read()",
            str(_made(members[0].directory) / ".lock"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert holder.stdin is not None and holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    lines: list[str] = []

    def say(line: str) -> None:
        """The other process ends once the sweep has said that it waits for it."""
        lines.append(line)
        if "waiting for 1 runs" in line:
            assert len(taken_steps(tmp_path)) == 1  # the free one is done
            holder.stdin.close()  # type: ignore[union-attr]

    try:
        assert fake_sweep(members, 2, say).run() == 0
    finally:
        holder.kill()
        holder.wait()
    assert sum("waiting for 1 runs" in line for line in lines) == 1
    assert taken_steps(tmp_path) == [list(range(1, 11))] * 2


def _made(directory: Path) -> Path:
    directory.mkdir(parents=True)
    return directory


@pytest.mark.processes
def test_a_directory_with_other_settings_is_a_failure_not_a_skip(tmp_path: Path) -> None:
    members = fake_members(tmp_path, ["good", "good"], load_config(["steps=10"]))
    write_config(members[0].directory, load_config(["steps=10", "optimizer.lr=1e-4"]))
    (members[0].directory / "summary.json").write_text('{"step": 10}')
    lines: list[str] = []
    assert fake_sweep(members, 2, lines.append).run() == 1
    assert "other settings (optimizer.lr" in lines[-1]
    assert taken_steps(tmp_path) == [list(range(1, 11))]


def test_members_are_named_as_single_runs_are() -> None:
    line = "-m env=CartPole,Acrobot seed=range(0,3) optimizer.lr=1e-3,2e-3 launcher.jobs=3"
    members, launcher = (plan := prepare(line.split())).members, plan.launcher
    assert len(members) == 12 and launcher.jobs == 3
    assert len({member.directory for member in members}) == 12
    for member in members:
        env = next(text.split("=")[1] for text in member.arguments if text.startswith("env="))
        assert member.directory == run_directory(
            load_config(list(member.arguments)), env, list(member.arguments)
        )
        assert "launcher" not in str(member.directory)
    assert str(members[0].directory) == "runs/CartPole/hybrid+optimizer.lr=0.001/seed_0"
    single = prepare(["-m", "seed=4"]).members
    assert str(single[0].directory) == "runs/CartPole/hybrid/seed_4"
    named = prepare(["-m", "env.id=CartPole-v1", "seed=1,2"]).members
    assert str(named[1].directory) == "runs/CartPole-v1/hybrid/seed_2"


def test_refuses_two_runs_in_one_directory(tmp_path: Path) -> None:
    config = load_config([])
    with pytest.raises(ConfigError, match=r"two runs of the sweep.*seed=0 and seed=00"):
        refuse_doubles([Member(tmp_path, config, (text,)) for text in ("seed=0", "seed=00")])


def test_who_only_looks_at_a_lock_keeps_nobody_out(tmp_path: Path) -> None:
    """A sweep that probes holds it for a moment: a run that starts just then must not give up."""
    probe = ExitStack()
    probe.enter_context(exclusive(tmp_path))
    timer = threading.Timer(0.1, probe.close)
    timer.start()
    with exclusive(tmp_path):
        assert is_locked(tmp_path)
    timer.join()


def test_the_lock_tells_whether_it_is_taken(tmp_path: Path) -> None:
    assert not is_locked(tmp_path / "missing")
    with exclusive(tmp_path):
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)


@pytest.mark.long  # the other tests start the same runs from this process
@pytest.mark.processes
def test_the_real_command(tmp_path: Path) -> None:
    """Two runs, one of which cannot be loaded any more; the other resumes, and a third call skips."""
    command = [sys.executable, str(ROOT / "train.py"), "-m", *SMALL, "seed=0,1", "launcher.jobs=2"]
    first = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "2 of 2 runs are complete, 0 failed" in first.stdout
    runs = sorted(tmp_path.glob("runs/CartPole/*/seed_*"))
    assert [run.name for run in runs] == ["seed_0", "seed_1"]
    before = [(run / "checkpoint.pt").stat().st_mtime_ns for run in runs]
    second = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert (second.returncode, second.stderr) == (0, "")
    assert "2 runs, 2 complete already" in second.stdout
    assert [(run / "checkpoint.pt").stat().st_mtime_ns for run in runs] == before

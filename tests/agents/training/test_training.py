"""Runs as a whole: reproducible, resumable after any kill, and able to learn."""

import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.reporting.progress import Progress
from qdreamer.agents.runs import checkpoint, run_directory
from qdreamer.agents.runs.provenance import provenance
from qdreamer.agents.runs.repair import repair
from qdreamer.agents.runs.run_directory import write_config
from qdreamer.agents.training.interrupt import Interrupt, InterruptedTwice
from qdreamer.agents.training.session import exclusive, run_session
from qdreamer.agents.training.training import Run
from qdreamer.configs.schema import ConfigError
from qdreamer.configs.sealed_file import write_sealed

ROOT = Path(__file__).parents[3]
SMALL = [
    "world_model.units=16", "world_model.deter=16", "world_model.hidden=16", "world_model.stoch=4",
    "world_model.classes=4", "train.batch_size=4", "train.batch_length=16", "train.replay_ratio=8",
    "train.prefill=64", "evaluation.every=100", "evaluation.episodes=3", "evaluation.horizon=10",
    "checkpoint.every=60", "logging.every=50", "logging.writers=[jsonl]", "steps=250",
]  # fmt: skip

READ = [word for word in SMALL if "deter" not in word]  # what the hybrid reads


def metrics(directory: Path) -> list[dict[str, Any]]:
    """All lines without what depends on the clock."""
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("time/")} for line in lines]


def run_whole(directory: Path, *overrides: str) -> list[dict[str, Any]]:
    assert run_session(load_config([*SMALL, *overrides]), directory) == 0
    return metrics(directory)


@pytest.fixture(scope="module")
def unbroken_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("unbroken")
    run_whole(directory)
    return directory


@pytest.fixture(scope="module")
def unbroken(unbroken_directory: Path) -> list[dict[str, Any]]:
    return metrics(unbroken_directory)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("finished")
    run_whole(directory, "steps=100")
    return directory


def test_same_seed_gives_identical_metrics(unbroken: list[dict[str, Any]], tmp_path: Path) -> None:
    assert run_whole(tmp_path) == unbroken
    assert any("loss/dynamics" in line for line in unbroken)
    assert any("eval/return" in line for line in unbroken)


def test_other_seed_differs(finished: Path, tmp_path: Path) -> None:
    assert run_whole(tmp_path, "seed=1", "steps=100") != metrics(finished)


class StopAt(Progress):
    """Presses Ctrl-C once a step is reached."""

    def __init__(self, step: int, number: int = signal.SIGINT) -> None:
        super().__init__(250, 0, 0)
        self._at, self._number = step, number

    def show(self, step: int, updates: int, force: bool = False) -> None:
        if step == self._at and not force:
            os.kill(os.getpid(), self._number)


def test_interrupted_runs_end_like_the_unbroken_one(unbroken: list[dict[str, Any]], tmp_path: Path) -> None:
    config = load_config(SMALL)
    for stop, number in ((30, signal.SIGINT), (131, signal.SIGTERM), (215, signal.SIGHUP)):
        write_config(tmp_path, config)
        run = Run(config, tmp_path)
        assert run.train(StopAt(stop, number)) == number
        run.close()
        assert run.step == stop
    assert run_session(config, tmp_path) == 0
    assert metrics(tmp_path) == unbroken


def test_a_run_that_ignores_hangups_goes_on_ignoring_them() -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupt() as interrupt:
            os.kill(os.getpid(), signal.SIGHUP)
        assert interrupt.signal is None
        with Interrupt() as interrupt, pytest.raises(InterruptedTwice):
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("env", ["Pendulum", "gym env.id=FrozenLake-v1 env.num_envs=3"])
def test_resume_is_exact_elsewhere_too(env: str, tmp_path: Path) -> None:
    overrides = [
        *SMALL,
        *f"env={env}".split(),
        "steps=200",
        "evaluation.every=100",
        "evaluation.episodes=2",
        "evaluation.max_steps=40",
    ]
    config = load_config(overrides)
    assert run_session(config, tmp_path / "whole") == 0
    (tmp_path / "broken").mkdir()
    write_config(tmp_path / "broken", config)
    run = Run(config, tmp_path / "broken")
    run.train(StopAt(130))
    run.close()
    assert run_session(config, tmp_path / "broken") == 0
    assert metrics(tmp_path / "broken") == metrics(tmp_path / "whole")


@pytest.mark.long  # the storm's own test, every time, kills a fork
@pytest.mark.processes
@pytest.mark.timeout(300)
def test_sigkill_at_random_moments(unbroken: list[dict[str, Any]], tmp_path: Path) -> None:
    """The whole program, killed without warning at random moments, then started again."""
    command = [sys.executable, str(ROOT / "train.py"), "env=CartPole", *READ, f"runs={tmp_path}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    moment = random.Random()  # truly random: every CI run tries others
    kills = 0
    for attempt in range(8):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()  # training has begun
        if attempt < 4:
            time.sleep(moment.uniform(0.0, 4.0))
            process.kill()
        process.stdout.read()
        if process.wait() == 0:
            break
        kills += 1
    assert kills > 0
    (directory,) = tmp_path.glob("CartPole/*/seed_0")
    assert metrics(directory) == unbroken


def test_a_kill_while_saving_keeps_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(tmp_path, {"value": 1}, {})

    def die(state: Any, file: Any) -> None:
        file.write(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", die)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path, {"value": 2}, {})
    assert checkpoint.load(tmp_path)["value"] == 1


def test_damaged_and_foreign_checkpoints_are_refused(tmp_path: Path) -> None:
    path = tmp_path / checkpoint.NAME
    with pytest.raises(checkpoint.CheckpointError, match="no checkpoint"):
        checkpoint.load(tmp_path)
    path.write_bytes(b"no checkpoint at all")
    with pytest.raises(checkpoint.CheckpointError, match="damaged"):
        checkpoint.load(tmp_path)
    write_sealed(path, lambda file: torch.save({"format": 1}, file))
    with pytest.raises(checkpoint.CheckpointError, match="format 1, and this version reads format 5"):
        checkpoint.load(tmp_path)
    torch.save({"format": 3, "weights": torch.ones(3)}, path)  # as earlier versions wrote it, without a seal
    with pytest.raises(checkpoint.CheckpointError, match="format 3, and this version reads format 5"):
        checkpoint.load(tmp_path)
    foreign = {"format": checkpoint.FORMAT, "code": os.system}  # pickled code is never run
    write_sealed(path, lambda file: torch.save(foreign, file))
    with pytest.raises(checkpoint.CheckpointError, match="damaged"):
        checkpoint.load(tmp_path)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    unbroken: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_whole(tmp_path)
    path = tmp_path / checkpoint.NAME
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert run_whole(tmp_path) == unbroken  # from the older checkpoint on, to the same end
    warning = capsys.readouterr().err
    assert warning.count("warning") == 1
    assert f"{path} is damaged" in warning
    assert (tmp_path / checkpoint.DAMAGED).read_bytes() == content


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    run_whole(one, "steps=100")
    run_whole(other, "steps=100", "seed=5", "optimizer.lr=0.1")
    (one / checkpoint.NAME).write_bytes((other / checkpoint.NAME).read_bytes())
    with pytest.raises(checkpoint.CheckpointError, match="belongs to another run"):
        run_whole(one, "steps=200")


def test_other_code_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_whole(tmp_path, "steps=100")
    versions = {**provenance(), "versions": {**provenance()["versions"], "code": "another"}}
    monkeypatch.setattr(run_directory, "provenance", lambda: versions)
    run_whole(tmp_path, "steps=200")
    assert "another version of the code" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (["step"], -5), (["step"], 1.5), (["credit"], float("nan")), (["credit"], 3.0),
        (["learner", "updates"], -1), (["observer", "log_offset"], {"jsonl": -1}),
        (["observer", "seconds"], float("inf")), (["observer", "solved_at"], 10**9),
    ],
)  # fmt: skip
def test_impossible_counters_are_refused(place: list[str], value: object, finished: Path) -> None:
    state = checkpoint.load(finished)
    *path, last = place
    inner = functools.reduce(dict.__getitem__, path, state)
    before, inner[last] = inner[last], value
    checkpoint.rewrite(finished, state)
    with pytest.raises(checkpoint.CheckpointError, match=f"no run has such a {last}"):
        run_whole(finished, "steps=200")
    inner[last] = before
    checkpoint.rewrite(finished, state)


@pytest.mark.parametrize("trouble", ["missing", "short", "other bytes", "half a line"])
def test_a_log_that_lost_lines_is_refused_and_repaired(
    trouble: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    log = tmp_path / "metrics.jsonl"
    whole = log.read_bytes()
    half = whole[: len(whole) // 2]
    kept = half[: half.rfind(b"\n") + 1]
    if trouble == "missing":
        log.unlink()
        kept = b""
    elif trouble == "other bytes":  # as long, but no line ends where the checkpoint goes on
        log.write_bytes(half + b"x" * (len(whole) - len(half)))
    else:
        log.write_bytes(kept if trouble == "short" else half)
    with pytest.raises(ConfigError, match="--repair"):
        run_whole(tmp_path, "steps=200")
    repair(tmp_path)
    assert "bytes are lost" in capsys.readouterr().err
    assert log.read_bytes() == kept
    lines = run_whole(tmp_path, "steps=200")  # every line is JSON
    assert lines[-1]["step"] == 200
    assert b"\0" not in log.read_bytes()
    repair(tmp_path)
    assert not capsys.readouterr().err


def test_finished_run_is_skipped_and_a_longer_one_goes_on(
    unbroken_directory: Path,
    unbroken: list[dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(unbroken_directory, tmp_path, dirs_exist_ok=True)
    assert run_whole(tmp_path) == unbroken
    assert "nothing to do" in capsys.readouterr().out
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    run_whole(tmp_path, "steps=200")  # fewer than it has: nothing is done, and nothing changes
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert run_whole(tmp_path, "steps=300")[: len(unbroken)] == unbroken


def test_a_second_process_is_kept_out(tmp_path: Path) -> None:
    with exclusive(tmp_path), pytest.raises(ConfigError, match="another process"):
        run_session(load_config(SMALL), tmp_path)


def test_diverging_training_is_reported(tmp_path: Path) -> None:
    config = load_config(SMALL)
    write_config(tmp_path, config)
    run = Run(config, tmp_path)
    with torch.no_grad():
        run.agent.actor.body.out.bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="not finite"):
        run.train(Progress(400, 0, 0))
    run.close()


@pytest.mark.parametrize(
    "replay",
    [
        "replay=curious replay.transform=rank",
        "replay=prioritized replay.signal=td replay.transform=rotation",
        "replay=quantum",
        "replay=uniform replay.mapped=true",
        "replay=quantum quantum=aer replay.wait=true replay.shots=64 replay.qubits=3",
    ],
)
def test_resume_is_exact_with_every_replay(replay: str, tmp_path: Path) -> None:
    overrides = [*SMALL, *replay.split(), "steps=240", "evaluation.every=240", "replay.capacity=150"]
    config = load_config(overrides)
    assert run_session(config, tmp_path / "whole") == 0
    (tmp_path / "broken").mkdir()
    write_config(tmp_path / "broken", config)
    run = Run(config, tmp_path / "broken")
    run.train(StopAt(170))
    run.close()
    assert run_session(config, tmp_path / "broken") == 0
    lines = metrics(tmp_path / "broken")
    assert lines == metrics(tmp_path / "whole")
    expected = {"replay/coverage", "replay/diversity"}
    if "uniform" not in replay:
        expected |= {f"replay/{x}" for x in ("entropy", "effective_sample_size", "weight_mean", "weight_max")}
    if "aer" in replay:
        expected |= {f"pool/{x}" for x in ("ready", "use", "age", "fresh", "distance")}
        expected |= {"quantum/jobs_finished"}
    assert expected <= set().union(*lines)

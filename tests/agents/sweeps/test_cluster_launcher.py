"""Sweeps through submitit: its executor on this machine, and what Slurm would be told."""

import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from qdreamer.agents.cli.command_line import prepare
from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.sweeps import cluster_launcher
from qdreamer.agents.sweeps.cluster_launcher import ClusterConfig, Training, make_launch, parameters
from qdreamer.agents.sweeps.sweep import Member, Sweep
from qdreamer.configs.schema import ConfigError

submitit = pytest.importorskip("submitit")


def _config(*overrides: str) -> ClusterConfig:
    launcher = prepare(["-m", "seed=0", *overrides]).launcher
    assert isinstance(launcher, ClusterConfig)
    return launcher


@pytest.mark.processes
def test_submitits_local_executor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs, one of which fails: the exit codes and last lines come back."""
    script = (
        "import json, os, pathlib, sys\n"
        "pathlib.Path(sys.argv[1], 'threads').write_text(os.environ['OMP_NUM_THREADS'])\n"
        "if sys.argv[2] == 'fail': print('error: it broke'); sys.exit(1)\n"
        "pathlib.Path(sys.argv[1], 'summary.json').write_text(json.dumps({'step': 10}))\n"
    )

    def command(member: Member) -> list[str]:
        return [sys.executable, "-c", script, str(member.directory), *member.arguments]

    monkeypatch.setattr(cluster_launcher, "command", command)
    config = load_config(["steps=10"])
    members = [Member(tmp_path / f"seed_{i}", config, (kind,)) for i, kind in enumerate(["good", "fail"])]
    launch = make_launch(_config("launcher=submitit", "launcher.minutes=1"), tmp_path)
    lines: list[str] = []
    assert Sweep(members, launch, 2, lines.append).run() == 1
    assert "1 of 2 runs are complete, 1 failed" in lines
    assert "seed_1" in lines[-1] and "error: it broke (exit code 1)" in lines[-1]
    assert members[0].finished()
    assert (members[0].directory / "threads").read_text() == "1"  # launcher.cpus, fewer than config.threads


def test_what_slurm_is_told() -> None:
    line = [
        "launcher=slurm",
        "launcher.partition=gpu",
        "launcher.gpus=1",
        "launcher.setup=[module load cuda]",
    ]
    told = parameters(_config(*line))
    assert told["slurm_partition"] == "gpu" and told["gpus_per_node"] == 1
    assert told["slurm_setup"] == ["module load cuda"] and "slurm_account" not in told
    assert told["timeout_min"] == 240


@pytest.mark.processes
def test_a_job_that_is_out_of_time_saves_and_is_queued_again(tmp_path: Path) -> None:
    script = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(143)); print(1, flush=True)"
    training = Training([sys.executable, "-c", f"{script}; time.sleep(60)"], tmp_path, 1)
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(training()))
    thread.start()
    log = tmp_path / "console.log"
    while not (log.exists() and log.read_text()):
        time.sleep(0.02)
    again: Any = training.checkpoint()
    thread.join(10)
    assert codes == [143]
    assert isinstance(again, submitit.helpers.DelayedSubmission)
    assert again.function.arguments == training.arguments


def test_without_slurm_or_submitit_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match="no Slurm here"):
        make_launch(_config("launcher=slurm"), tmp_path)
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ConfigError, match="needs submitit"):
        make_launch(_config("launcher=slurm"), tmp_path)

"""A run takes no more threads than it may have cores."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.runs import cores
from qdreamer.agents.runs.cores import usable_cores, use_threads
from qdreamer.agents.sweeps import local_launcher
from qdreamer.agents.sweeps.sweep import Member
from qdreamer.agents.training.training import prepare_torch


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(cores, "QUOTA", Path("nowhere"))
    if hasattr(os, "sched_getaffinity"):
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3})
    else:
        monkeypatch.setattr(os, "cpu_count", lambda: 4)


@pytest.mark.usefixtures("four_cores")
@pytest.mark.parametrize(
    ("said", "found"), [(None, 4), ("2", 2), ("3,1", 3), ("8", 4), ("", 4), ("0", 4), ("many", 4), ("²", 4)]
)
def test_cores_are_those_of_the_process_and_at_most_what_openmp_is_told(
    monkeypatch: pytest.MonkeyPatch, said: str | None, found: int
) -> None:
    if said is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert usable_cores() == found


@pytest.mark.usefixtures("four_cores")
@pytest.mark.parametrize(
    ("quota", "found"), [("max 100000", 4), ("200000 100000", 2), ("50000 100000", 1), ("900000 100000", 4)]
)
def test_a_container_has_the_cores_of_its_quota(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quota: str, found: int
) -> None:
    file = tmp_path / "cpu.max"
    file.write_text(f"{quota}\n")
    monkeypatch.setattr(cores, "QUOTA", file)
    assert usable_cores() == found


@pytest.mark.usefixtures("four_cores")
def test_a_run_takes_no_more_threads_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    try:
        prepare_torch(load_config(["threads=3"]))
        assert torch.get_num_threads() == 3
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        prepare_torch(load_config(["threads=3"]))
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("four_cores")
def test_threads_are_at_most_the_cores() -> None:
    before = torch.get_num_threads()
    try:
        for most, threads in ((1, 1), (3, 3), (64, 4)):
            use_threads(most)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("four_cores")
@pytest.mark.parametrize(
    ("said", "jobs", "asked", "threads"),
    [
        (None, 1, 2, 2), (None, 2, 2, 2), (None, 3, 2, 1), (None, 2, 8, 2), (None, 9, 2, 1),
        ("2", 2, 8, 2), ("1", 1, 8, 1),  # what OpenMP is told counts for each run
    ],
)  # fmt: skip
def test_runs_of_a_sweep_share_the_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str | None, jobs: int, asked: int, threads: int
) -> None:
    if said is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    started: list[int] = []
    monkeypatch.setattr(local_launcher, "start", lambda words, directory, threads: started.append(threads))
    launch = local_launcher.make_launch(SimpleNamespace(jobs=jobs), tmp_path)  # type: ignore[arg-type]
    config: Any = SimpleNamespace(threads=asked)
    launch(Member(tmp_path, config, ()))
    assert started == [threads]

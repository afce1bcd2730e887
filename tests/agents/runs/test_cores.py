"""A run takes no more threads than it may have cores."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from qdreamer.agents.runs.cores import usable_cores, use_threads
from qdreamer.agents.sweeps import local_launcher
from qdreamer.agents.sweeps.sweep import Member


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if hasattr(os, "sched_getaffinity"):
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3})
    else:
        monkeypatch.setattr(os, "cpu_count", lambda: 4)


@pytest.mark.usefixtures("four_cores")
@pytest.mark.parametrize(
    ("said", "cores"), [(None, 4), ("2", 2), ("3,1", 3), ("8", 4), ("", 4), ("0", 4), ("many", 4)]
)
def test_cores_are_those_of_the_process_and_at_most_what_openmp_is_told(
    monkeypatch: pytest.MonkeyPatch, said: str | None, cores: int
) -> None:
    if said is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert usable_cores() == cores


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
    ("jobs", "asked", "threads"), [(1, 2, 2), (2, 2, 2), (3, 2, 1), (2, 8, 2), (9, 2, 1)]
)
def test_runs_of_a_sweep_share_the_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, jobs: int, asked: int, threads: int
) -> None:
    started: list[int] = []
    monkeypatch.setattr(local_launcher, "start", lambda words, directory, threads: started.append(threads))
    launch = local_launcher.make_launch(SimpleNamespace(jobs=jobs), tmp_path)  # type: ignore[arg-type]
    config: Any = SimpleNamespace(threads=asked)
    launch(Member(tmp_path, config, ()))
    assert started == [threads]

"""Disks full or read-only, and run directories that are removed: one line that says what is safe."""

import contextlib
import errno
import os
import resource
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qdreamer.agents.cli import evaluate_command
from qdreamer.agents.cli.command_line import main
from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.reporting import reporting
from qdreamer.agents.reporting.metrics import MetricsLog
from qdreamer.agents.reporting.reporting import Reporter
from qdreamer.agents.runs import checkpoint
from qdreamer.agents.runs.run_directory import read_summary, write_config
from qdreamer.agents.training.observer import Observer
from qdreamer.configs import streams
from qdreamer.configs.sealed_file import write_json

Disk = contextlib.AbstractContextManager[None]
TINY = [
    "env=CartPole", "agent=classical", "world_model.units=8", "world_model.deter=8", "world_model.hidden=8",
    "world_model.stoch=2", "train.batch_size=2", "train.batch_length=8", "train.replay_ratio=4",
    "train.prefill=20", "agent.imagination_horizon=3", "evaluation.every=120", "evaluation.episodes=2",
    "evaluation.horizon=5", "checkpoint.every=40", "logging.every=10", "logging.video_every=0", "steps=120",
]  # fmt: skip


@pytest.fixture
def as_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `streams.settle` does; pytest has replaced the hook."""
    monkeypatch.setattr(threading, "excepthook", streams._of_a_thread)


def train(
    runs: Path, monkeypatch: pytest.MonkeyPatch, at: int = -1, then: Callable[[Path], Any] = lambda _: None
) -> int:
    """Run the command, and let something happen at a step; return its exit code."""
    shown = Observer.show

    def show(self: Observer, step: int, force: bool = False) -> None:
        if step == at:
            then(self._directory)
        shown(self, step, force)

    with contextlib.ExitStack() as stack, monkeypatch.context() as patch:
        patch.setattr(Observer, "show", show)
        stack.callback(resource.setrlimit, resource.RLIMIT_FSIZE, resource.getrlimit(resource.RLIMIT_FSIZE))
        try:
            main([*TINY, f"runs={runs}"])
        except SystemExit as end:
            return int(end.code or 0)
    return 0


def fill(_: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.mark.usefixtures("as_a_command")
def test_a_run_on_a_full_disk_goes_on_once_there_is_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for at, safe in (
        (15, "nothing was saved yet"),
        (75, "the last checkpoint is kept, and the same command"),
    ):
        assert train(tmp_path, monkeypatch, at, fill) == 1
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("error: [Errno 27] File too large") and safe in last
    assert train(tmp_path, monkeypatch) == 0
    assert "resuming at step 40" in capsys.readouterr().out
    (directory,) = tmp_path.glob("*/*/seed_0")
    assert read_summary(directory)["finished"]


READ_ONLY: list[Path] = []
"""Folders in which this process opens nothing for writing, and makes, renames and removes nothing."""
HOOKED: list[Any] = []
"""The hook below, once it is there: it stays until the process ends."""


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook, which Python asks before the system; tests run as root, whom no permission stops."""
    if not READ_ONLY or event not in ("open", "os.mkdir", "os.rename", "os.remove", "os.link"):
        return
    path, writing = arguments[0], event != "open" or arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if (
        writing
        and isinstance(path, str | os.PathLike)
        and any(Path(path).is_relative_to(x) for x in READ_ONLY)
    ):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), os.fspath(path))


@pytest.fixture
def read_only() -> Iterator[Callable[[Path], None]]:
    if _refuse not in HOOKED:
        sys.addaudithook(_refuse)
        HOOKED.append(_refuse)
    yield READ_ONLY.append
    READ_ONLY.clear()


@pytest.mark.usefixtures("as_a_command")
def test_a_run_in_a_read_only_folder(
    read_only: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    read_only(tmp_path)
    assert train(tmp_path, monkeypatch) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: [Errno 30] Read-only file system") and str(tmp_path) in line
    READ_ONLY.clear()
    assert train(tmp_path, monkeypatch, 75, lambda directory: read_only(tmp_path)) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: [Errno 30] Read-only file system")
    assert "the last checkpoint is kept, and the same command" in last
    (directory,) = tmp_path.glob("*/*/seed_0")
    evaluate_command.main([str(directory), "--episodes", "2"])  # which only reads
    assert "over 2 unseen episodes" in capsys.readouterr().out
    READ_ONLY.clear()
    assert train(tmp_path, monkeypatch) == 0
    assert "resuming at step 40" in capsys.readouterr().out


@pytest.mark.parametrize("at", [35, 75])
@pytest.mark.usefixtures("as_a_command")
def test_a_run_directory_that_is_removed_is_noticed_at_the_next_write(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path, monkeypatch, at, shutil.rmtree) == 1
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-1].endswith(
        "; the run's folder is gone, and nothing of the run is left"
    )
    assert "Traceback" not in captured.err
    assert not list(tmp_path.glob("*/*/seed_0"))


def test_a_log_that_is_removed_is_noticed_at_its_next_line(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, ["jsonl"])
    log.scalars(1, {"value": 1.0})
    (tmp_path / "metrics.jsonl").unlink()
    with pytest.raises(OSError, match=r"metrics\.jsonl was removed"):
        log.scalars(2, {"value": 1.0})
    log.close()


@pytest.mark.parametrize("writer", ["tensorboard", "csv"])
@pytest.mark.usefixtures("as_a_command")
def test_outputs_that_a_run_can_do_without_are_left_out(
    writer: str, full_disk: Disk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = MetricsLog(tmp_path, [writer])
    with full_disk:
        for step in range(50):
            log.scalars(step, {f"value{i}": 1.0 for i in range(10)})
        assert log.positions() in ({}, {writer: 0})
        log.close()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {writer} is left out from here on: ") and "File too large" in line


WRITERS: dict[str, Callable[[Path, Any], Any]] = {
    "checkpoint.pt": lambda directory, value: checkpoint.save(directory, {"step": value}, {}),
    "best.pt": lambda directory, value: checkpoint.save_best(directory, {}, value, 0.0, {}),
    "summary.json": lambda directory, value: write_json(directory / "summary.json", {"step": value}),
    "config.yaml": lambda directory, value: write_config(directory, load_config([f"seed={value}"])),
}


@pytest.mark.parametrize("name", WRITERS)
def test_the_old_file_stays_where_there_is_no_space_for_the_new(
    name: str, full_disk: Disk, tmp_path: Path
) -> None:
    WRITERS[name](tmp_path, 1)
    before = (tmp_path / name).read_bytes()
    with full_disk, pytest.raises(OSError, match="File too large"):
        WRITERS[name](tmp_path, 2)
    assert (tmp_path / name).read_bytes() == before
    WRITERS[name](tmp_path, 2)
    assert (tmp_path / name).read_bytes() != before


def test_a_video_without_space_is_a_line_at_the_end(
    full_disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(TINY)
    log = MetricsLog(tmp_path, ["jsonl", "tensorboard"])
    reporter = Reporter(config.env, config.evaluation, config.logging, 120, 8, log, tmp_path)
    monkeypatch.setattr(reporting, "record_video", lambda *_: [])
    monkeypatch.setattr(reporting, "gif", lambda _: b"GIF8")
    with full_disk:
        reporter._extra("videos", lambda: reporter._video(5, None))  # type: ignore[arg-type]
    log.close()
    assert "File too large" in reporter.problems["videos"]

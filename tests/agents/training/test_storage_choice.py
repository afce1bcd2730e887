"""Where replay's rows lie, and runs whose rows fit nowhere."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.training import storage_choice
from qdreamer.agents.training.session import run_session
from qdreamer.agents.training.storage_choice import choose_files, free_memory
from qdreamer.configs.schema import ConfigError

GB = 10**9
FIELDS: dict[str, Any] = {
    "observation/image": ((64, 64, 3), np.uint8),
    "observation/arm": ((5,), np.float32),
    "state": ((500,), np.float16),
}
IMAGE, ARM = list(FIELDS)[:2]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine with so many GB of free memory and disk."""

    def make(memory: float, disk: float) -> None:
        monkeypatch.setattr(storage_choice, "free_memory", lambda: int(memory * GB))
        usage = shutil._ntuple_diskusage(10**15, 0, int(disk * GB))  # type: ignore[attr-defined]
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)

    return make


def choose(directory: Path, *overrides: str) -> list[str]:
    return choose_files(load_config(["steps=1e6", *overrides]), directory, FIELDS, [IMAGE, ARM])


@pytest.mark.parametrize(
    ("memory", "overrides", "files"),
    [
        (30.0, [], []),  # 13.3 GB when full
        (20.0, [], [IMAGE]),
        (20.0, ["replay.capacity=500000"], []),
        (20.0, ["replay.mapped=false"], []),
        (200.0, ["replay.mapped=true"], [IMAGE]),
        (2.0, [], [IMAGE]),
    ],
)
def test_images_go_to_files_when_they_would_fill_memory(
    tmp_path: Path, machine: Any, memory: float, overrides: list[str], files: list[str]
) -> None:
    machine(memory, 100.0)
    assert choose(tmp_path, *overrides) == files


def test_a_run_with_files_goes_on_with_them(tmp_path: Path, machine: Any) -> None:
    machine(1000.0, 100.0)
    (tmp_path / "replay").mkdir()
    assert choose(tmp_path) == [IMAGE]


def test_small_entries_go_to_files_only_when_told(tmp_path: Path, machine: Any) -> None:
    machine(1.5, 100.0)
    small = {name: FIELDS[name] for name in (ARM, "state")}
    for mapped, files in (("auto", []), ("true", [ARM])):
        config = load_config(["steps=1e6", f"replay.mapped={mapped}"])
        assert choose_files(config, tmp_path, small, [ARM]) == files


@pytest.mark.parametrize(
    ("memory", "disk", "overrides", "words"),
    [
        (
            5.0,
            12.0,
            [],
            r"1,000,000 rows take 15\.5 GB, and the disk of .* has 12\.0 GB: use .*=697300, or runs=",
        ),
        (0.8, 100.0, [], r"rows take 1\.0 GB, and memory has 0\.8 GB: use replay\.capacity=705800$"),
        (
            5.0,
            100.0,
            ["replay.mapped=false"],
            r"take 13\.3 GB, and memory .*=338100, or replay\.mapped=true$",
        ),
    ],
)
def test_rows_that_fit_nowhere_are_refused(
    tmp_path: Path, machine: Any, memory: float, disk: float, overrides: list[str], words: str
) -> None:
    machine(memory, disk)
    with pytest.raises(ConfigError, match=words):
        choose(tmp_path, *overrides)
    choose(tmp_path, *overrides, "steps=1000")  # a short run never has so many


def test_a_run_says_what_a_full_buffer_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["evaluation.episodes=1", "evaluation.max_steps=20", "logging.writers=[jsonl]"]
    config = load_config(["steps=40", "replay=uniform", "replay.capacity=1000", "agent=classical", *few])
    assert run_session(config, tmp_path) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("replay:")]
    # CartPole's numbers, actions, reward and flags; h in half precision and z
    size = 1000 * (16 + 8 + 4 + 3 + 2 * 128 + 8)
    assert line == f"replay: 1,000 rows when full: {size / 1e6:.1f} MB of memory"


def test_free_memory_is_this_machines() -> None:
    assert 10**6 < free_memory() < 10**14

"""The storm, for a few seconds: the long one is `python -m tests.storm --minutes 60`."""

import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.storm import damage, forks, fuzz, fuzz_files


@pytest.mark.processes
@pytest.mark.timeout(300)
def test_a_run_survives_kills() -> None:
    words = ["--kinds", "short", "--minutes", "0.01", "--corruptions", "0", "--lines", "0"]  # one run
    storm = subprocess.run(
        [sys.executable, "-m", "tests.storm", *words], cwd=forks.ROOT, capture_output=True, text=True
    )
    assert storm.returncode == 0, storm.stdout + storm.stderr
    runs, kills, saving, *wrong = map(
        int, re.findall(r"^\| all \| (.*) \|$", storm.stdout, re.M)[0].split(" | ")
    )
    assert (runs, wrong) == (1, [0, 0, 0, 0]) and kills >= 2 and saving >= 1


def test_no_damaged_checkpoint_is_loaded(tmp_path: Path) -> None:
    assert damage.damaged_loads(tmp_path, 300, random.Random(1)) == 0


def test_no_damaged_chunk_is_believed(tmp_path: Path) -> None:
    assert damage.damaged_chunks(tmp_path, 300, random.Random(1)) == 0


@pytest.mark.parametrize("files", [fuzz_files.configs, fuzz_files.logs])
def test_changed_files_are_taken_or_refused_in_one_line(
    files: Callable[[Path, int], None], tmp_path: Path
) -> None:
    files(tmp_path, 15)


def test_a_fuzzed_command_line_gets_one_line() -> None:
    told: list[str] = []
    assert fuzz.tracebacks(60, random.Random(2), told.append) == 0, told

"""The storm, for a few seconds: the long one is `python -m tests.storm --minutes 60`."""

import random
from pathlib import Path

import pytest

from tests.storm import damage, fuzz, kills


@pytest.mark.processes
@pytest.mark.timeout(300)
def test_a_run_survives_kills(tmp_path: Path) -> None:
    kind = kills.Kind(["agent=classical", "steps=500"])
    expected, seconds = kills.unbroken(kind, tmp_path / "unbroken")
    killed = 0
    for number in range(5):  # a busy machine may let a run through
        if killed < 2:
            tally = kills.batter(kind, tmp_path / str(number), expected, seconds, random.Random(number))
            assert (tally.corrupt, tally.lost, tally.failed, tally.unequal) == (0, 0, 0, 0)
            killed += tally.kills
    assert killed >= 2


def test_no_damaged_checkpoint_is_loaded(tmp_path: Path) -> None:
    assert damage.damaged_loads(tmp_path, 300, random.Random(1)) == 0


def test_no_damaged_chunk_is_believed(tmp_path: Path) -> None:
    assert damage.damaged_chunks(tmp_path, 300, random.Random(1)) == 0


def test_a_fuzzed_command_line_gets_one_line() -> None:
    told: list[str] = []
    assert fuzz.tracebacks(60, random.Random(2), told.append) == 0, told

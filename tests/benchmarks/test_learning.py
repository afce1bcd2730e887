"""Runs that stop at the threshold: what counts as reached, and when nothing is left to do."""

import json
from pathlib import Path

import pytest

from benchmarks.learning import Training, reached


@pytest.fixture
def run(tmp_path: Path) -> Path:
    lines = [
        json.dumps({"step": step, "eval/return": score})
        for step, score in ((500, 30), (1000, 480), (1500, 490))
    ]
    text = "\n".join([json.dumps({"step": 250, "updates": 3}), *lines, '{"step": 2000, "eval/re'])
    (tmp_path / "metrics.jsonl").write_text(text)
    return tmp_path


def test_the_first_evaluation_at_the_goal_counts_and_half_a_line_does_not(run: Path) -> None:
    assert (reached(run, 475.0) or {})["step"] == 1000
    assert reached(run, 495.0) is None
    assert reached(run / "nowhere", 0.0) is None


@pytest.mark.parametrize(("saved", "step"), [(False, 500), (True, 1000), (True, 1500)])
def test_what_is_logged_but_not_saved_is_trained_again(
    run: Path, saved: bool, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.learning.read_summary", lambda directory: {"step": step})
    assert Training([], run)._saved(475.0) == saved
    assert not Training([], run)._saved(None)

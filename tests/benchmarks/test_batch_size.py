"""The batch-size finder stays within its limit, and names the fastest size."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.batch_size import Measured, curve

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("limit", [0.5, 1.0, 1.7, 4.0, 100.0])
def test_no_size_is_tried_that_would_not_fit(limit):
    """Memory of 0.4 GB and 0.07 for each sequence; the first two sizes tell."""
    tried = []

    def measure(batch):
        tried.append(batch)
        needs = 0.4 + 0.07 * batch
        return Measured(batch, needs, 100.0) if needs <= limit else None

    found = curve(limit, measure)
    assert [one.batch for one in found] == [2**k for k in range(15) if 0.4 + 0.07 * 2**k <= limit][
        : len(found)
    ]
    assert all(0.4 + 0.07 * batch <= limit for batch in tried if batch > 2)
    assert len(found) >= sum(1 for k in range(15) if 1.03 * (0.4 + 0.07 * 2**k) <= limit)


@pytest.mark.long
def test_a_process_that_wants_more_is_stopped():
    """The forecast knows nothing of the first sizes: there the system's limit holds."""
    command = ["benchmarks.batch_size", "--memory", "0.3", "--updates", "1", "agent=classical"]
    ended = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert ended.returncode == 1
    assert "for want of memory: " in ended.stdout
    assert "not even a batch of 1 fits" in ended.stderr

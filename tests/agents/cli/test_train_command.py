"""What needs no torch is answered without it: --help, and what is mistyped."""

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from qdreamer.agents.cli.help import help_text
from qdreamer.agents.cli.overrides import groups

ROOT = Path(__file__).parents[3]


@pytest.mark.processes
@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("--help", "QDreamer: train"),
        ("sed=1", "did you mean seed?"),
        ("env=CartPol", "did you mean CartPole?"),
        ("-m seed=0,1 optimizer.rl=1", "did you mean optimizer.lr?"),
        ("--hlep", "did you mean --help?"),
    ],
)
def test_answers_within_a_second(line: str, word: str, tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-X", "importtime", str(ROOT / "train.py"), *line.split()]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert word in done.stdout + done.stderr
    for heavy in ("torch", "matplotlib"):
        assert not re.search(rf"\| +{heavy}$", done.stderr, re.MULTILINE), f"{heavy} was imported"
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert spent < 1.5  # a second on a machine that does nothing else; 0.5 as a rule


@pytest.mark.processes
def test_several_processes_refuse_together(tmp_path: Path) -> None:
    """A process of torchrun's leaves all to the command line, whose errors are collective."""
    code = (
        "from qdreamer.agents.cli import train_command, command_line\n"
        "command_line.main = lambda words: print('there', words)\ntrain_command.main(['sed=1'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"RANK": "0"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == "there ['sed=1']\n"


def test_help_fits_a_terminal_and_says_what_each_agent_is() -> None:
    text = help_text()
    assert max(map(len, text.splitlines())) <= 80
    for agent in groups()["agent"]:
        (line,) = (line for line in text.splitlines() if line.startswith(f"  {agent} "))
        assert len(line.split()) > 2, "its words"
    assert "  classical                 DreamerV3's actor and critic" in text

"""train.py as a process: --help, and what is mistyped, are answered without torch."""

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.cli.help import help_text
from qdreamer.agents.cli.overrides import groups
from qdreamer.agents.runs.config import Config
from qdreamer.configs.schema import build

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


def _train(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "train.py"), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


@pytest.mark.processes
def test_process_refuses_in_one_line(tmp_path: Path) -> None:
    done = _train("env.id=CartPole-v0", "optimizer.lr=-1", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "error: optimizer.lr=-1 must be greater than 0\n"
    assert done.stdout == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.processes
@pytest.mark.parametrize("script", ["train.py", "evaluate.py", "compare.py"])
def test_a_python_without_the_package_says_so(script: str, tmp_path: Path) -> None:
    bare = [sys.executable, "-S", "-E", str(ROOT / script)]  # without site-packages
    done = subprocess.run(bare, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {sys.executable} lacks QDreamer")
    assert done.stderr.endswith("pip install -e .\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.processes
def test_process_helps(tmp_path: Path) -> None:
    done = _train("--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    for word in ("python train.py env=CartPole ", "env=gym env.id=FrozenLake-v1", "world_model: 12M, 1M"):
        assert word in done.stdout


@pytest.mark.processes
def test_process_shows_the_config(tmp_path: Path) -> None:
    done = _train("--cfg", "job", "seed=5", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    shown = OmegaConf.create(done.stdout)
    assert shown.seed == 5
    assert build(Config, OmegaConf.to_container(shown, resolve=True)) == load_config(["seed=5"])

"""Runs of a sweep as processes on this machine."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from qdreamer.agents.runs.cores import usable_cores
from qdreamer.agents.runs.orphan import VARIABLE
from qdreamer.agents.sweeps.sweep import LAUNCHERS, OUTPUT, Launch, LauncherConfig, Member


def command(member: Member) -> list[str]:
    """Return the run's own command line.

    -P keeps the current folder out of the import path, as the console command does: a folder of the
    user's there, called qdreamer or queue, is not imported.
    """
    return [sys.executable, "-P", "-m", "qdreamer", "train", *member.arguments]


def start(arguments: Sequence[str], directory: Path, threads: int) -> subprocess.Popen[bytes]:
    """Start a run. What it prints goes to its directory, behind what earlier sessions printed.

    Args:
        threads: which the run takes at most (`agents.runs.cores`), and libraries that count for themselves.
    """
    directory.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), VARIABLE: str(os.getpid())}
    with (directory / OUTPUT).open("ab") as output:
        return subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
        )


@LAUNCHERS.register("local", LauncherConfig)
def make_launch(config: LauncherConfig, runs: Path) -> Launch:
    """Return what starts runs as processes, which share the cores out."""
    share = usable_cores(config.jobs)
    return lambda member: start(command(member), member.directory, min(share, member.config.threads))

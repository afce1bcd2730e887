"""Runs of a sweep as processes on this machine."""

import os
import subprocess
import sys
from dataclasses import dataclass

from qdreamer.agents.runs.orphan import VARIABLE
from qdreamer.agents.sweeps.sweep import OUTPUT, Member


def command(member: Member) -> list[str]:
    """The run's own command line.

    -P keeps the current folder out of the import path, as the console command does: a folder of the
    user's there, called qdreamer or queue, is not imported.
    """
    return [sys.executable, "-P", "-m", "qdreamer", "train", *member.arguments]


def environment(member: Member) -> dict[str, str]:
    """Of the run's process: libraries that count threads themselves get as many as the run."""
    return {
        **os.environ,
        "OMP_NUM_THREADS": str(member.config.threads),
        VARIABLE: str(os.getpid()),
    }


@dataclass(frozen=True, eq=False)
class LocalHandle:
    """A process."""

    process: subprocess.Popen[bytes]

    def poll(self) -> int | None:
        return self.process.poll()

    def stop(self) -> None:
        self.process.terminate()


def launch(member: Member) -> LocalHandle:
    """Start the run; what it prints goes to its directory, behind what earlier sessions printed."""
    member.directory.mkdir(parents=True, exist_ok=True)
    with (member.directory / OUTPUT).open("ab") as output:
        process = subprocess.Popen(
            command(member),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment(member),
        )
    return LocalHandle(process)

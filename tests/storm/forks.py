"""Training commands as copies of a process that has imported everything: a start costs no imports.

That process must have one thread, and no generator's state that a run would not set itself. Each copy may be
told to die at a system call of its next save: the kills that a clock seldom hits.
"""

import importlib
import mmap
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qdreamer import cli
from qdreamer.agents.cli import command_line
from qdreamer.configs import sealed_file

ROOT = Path(__file__).parents[2]


@dataclass
class Fault:
    """Where a process kills its group, once it is armed from outside.

    `skip` calls pass first; calls are those that write into a sealed file, or that sync, link and rename.
    """

    skip: int
    writes: bool
    behind: bool  # after the call, not before it
    _shared: mmap.mmap = field(default_factory=lambda: mmap.mmap(-1, 1))

    def arm(self) -> None:
        self._shared[0] = 1

    @property
    def struck(self) -> bool:
        return self._shared[0] == 2

    def install(self) -> None:
        """Take the place of the calls, in this process."""
        if self.writes:
            noting: Any = sealed_file._Noting
            noting.write = self._deadly(noting.write)
        else:
            for name in ("fsync", "replace", "link"):
                setattr(os, name, self._deadly(getattr(os, name)))

    def _deadly(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **named: Any) -> Any:
            if not self._shared[0]:
                return call(*arguments, **named)
            self.skip -= 1
            if self.skip < 0 and not self.behind:
                self._strike()
            result = call(*arguments, **named)
            if self.skip < 0:
                self._strike()
            return result

        return called

    def _strike(self) -> None:
        self._shared[0] = 2
        os.killpg(0, signal.SIGKILL)


def prepare(commands: Sequence[Sequence[str]], modules: Sequence[str] = ()) -> None:
    """Import what such commands would, by doing all that comes before training, and modules beside."""
    for module in modules:
        importlib.import_module(module)
    for words in commands:
        command_line.prepare(list(words))


def start(words: Sequence[str], output: Path, ranks: int, fault: Fault | None) -> list[int]:
    """Start train.py, in as many processes as it has ranks; return their process ids, each a group's.

    What they say goes to the end of `output`. One of the ranks has the fault.
    """
    environments = [{"OMP_NUM_THREADS": "1"}]
    if ranks > 1:
        environments = _as_torchrun(ranks)
    faulty = 0 if fault is None else fault.skip % ranks
    sys.stdout.flush()
    sys.stderr.flush()
    processes = []
    for number, environment in enumerate(environments):
        process = os.fork()
        if process == 0:
            _run(words, output, environment, fault if number == faulty else None)
        processes.append(process)
    return processes


def _as_torchrun(ranks: int) -> list[dict[str, str]]:
    """Return the variables that torchrun would set for each rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    return [
        {
            **address, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks),
            "OMP_NUM_THREADS": "1", "TORCHELASTIC_RUN_ID": "storm",
        }
        for rank in range(ranks)
    ]  # fmt: skip


def _run(words: Sequence[str], output: Path, environment: dict[str, str], fault: Fault | None) -> None:
    """Be the command, from here on."""
    code: Any = 1
    try:
        os.setsid()
        os.chdir(ROOT)
        file = os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        for stream in (1, 2):
            os.dup2(file, stream)
        os.environ.update(environment)
        if fault is not None:
            fault.install()
        cli.run("train", list(words))
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)

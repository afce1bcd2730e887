"""A sweep: many runs, each in a process of its own.

The same command finishes what is missing: runs that are complete are skipped, others resumed. A run that
fails does not touch the others; the sweep names it at its end. Several sweeps may share their work: each
run is trained by whoever holds its lock.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Protocol

from pydantic import Field

from qdreamer.agents.reporting.progress import duration
from qdreamer.agents.runs.config import Config
from qdreamer.agents.runs.lock import is_locked
from qdreamer.agents.runs.run_directory import check_same_run, fingerprint, read_summary
from qdreamer.agents.training.interrupt import Interrupt
from qdreamer.configs.registry import PartConfig, Registry
from qdreamer.configs.schema import ConfigError, Int, settings

OUTPUT = "console.log"  # what a run printed, in its directory
_PAUSE = 0.05  # seconds between looks at the runs
_SHOW = 60.0  # seconds between lines about the runs that are under way
_WAIT = 3600.0  # seconds that a run may be locked by another process after all others have ended


class Member(NamedTuple):
    """One run of a sweep."""

    directory: Path
    config: Config
    arguments: tuple[str, ...]  # of train.py

    def finished(self) -> bool:
        """Tell whether it has all its steps. Raises ConfigError if the directory holds another run."""
        check_same_run(self.directory, self.config)
        return bool(read_summary(self.directory).get("step", 0) >= self.config.steps)


class Handle(Protocol):
    """A run that was started; subprocess.Popen is one."""

    def poll(self) -> int | None:
        """Return its exit code, once it has ended."""
        ...

    def terminate(self) -> None:
        """Ask it to save and leave."""
        ...


Launch = Callable[[Member], Handle]


@settings
class LauncherConfig(PartConfig):
    """What every launcher has. Runs do not know theirs: the same run may be made anywhere."""

    jobs: Int = Field(ge=1, le=1000)  # queued or running at a time


# Functions that return what starts a run, of the launcher's config and the folder that keeps all runs.
LAUNCHERS: Registry[Callable[[Any, Path], Launch]] = Registry("launchers", "qdreamer.agents.sweeps", "local")


@settings
class SweepConfig:
    """configs/sweep.yaml."""

    launcher: Annotated[LauncherConfig, LAUNCHERS]


class _Running(NamedTuple):
    member: Member
    handle: Handle
    begin: float


class Sweep:
    """Keeps `jobs` runs going until none is left.

    Args:
        launch: starts a run.
        say: takes a line for the user.
    """

    def __init__(
        self, members: Sequence[Member], launch: Launch, jobs: int, say: Callable[[str], None]
    ) -> None:
        self._launch, self._jobs, self._say = launch, jobs, say
        self._total = len(members)
        self._waiting = deque(members)
        self._running: list[_Running] = []
        self._complete = 0
        self._failed: list[tuple[Member, str]] = []
        self._locked_since: float | None = None
        self._shown = time.monotonic()

    def run(self) -> int:
        """Return the exit code: 0 if all runs are complete, 1 if some failed, 128 + n after signal n."""
        self._waiting = deque(member for member in self._waiting if not self._is_done(member))
        before = f", {self._complete} complete already" if self._complete else ""
        self._say(f"sweep: {self._total} runs{before}; {self._jobs} at a time, each prints to its {OUTPUT}")
        stopped = False
        with Interrupt() as interrupt:
            while self._running or (self._waiting and not stopped):
                if interrupt.signal is not None and not stopped:
                    stopped = True
                    self._say(f"stopping: {len(self._running)} runs save and leave")
                    for running in self._running:
                        running.handle.terminate()
                if not stopped:
                    self._start()
                self._collect(stopped)
                self._show()
                time.sleep(_PAUSE)
        left = f", {len(self._waiting)} left: the same command goes on" if self._waiting else ""
        self._say(f"{self._complete} of {self._total} runs are complete, {len(self._failed)} failed{left}")
        for member, reason in self._failed:
            self._say(f"failed: {member.directory}: {reason}")
        if interrupt.signal is not None:
            return 128 + interrupt.signal
        return 1 if self._failed else 0

    def _is_done(self, member: Member) -> bool:
        """Tell whether nothing is left to do for a run, and count it."""
        try:
            finished = member.finished()
        except ConfigError as error:
            self._fail(member, str(error))
            return True
        self._complete += finished
        return finished

    def _start(self) -> None:
        """Fill the free places. A run that another process holds goes to the end of the queue."""
        for _ in range(len(self._waiting)):
            if len(self._running) >= self._jobs:
                break
            member = self._waiting.popleft()
            try:
                if is_locked(member.directory):
                    self._waiting.append(member)
                elif not self._is_done(member):  # another sweep may have done it meanwhile
                    self._running.append(_Running(member, self._launch(member), time.monotonic()))
            except (OSError, RuntimeError) as error:  # a disk, a lock, a cluster that says no
                self._fail(member, last_line(error))
        self._give_up_locked()

    def _give_up_locked(self) -> None:
        """Wait, but not for ever, when nothing runs here and other processes hold all that is left."""
        if self._running or not self._waiting:
            self._locked_since = None
        elif self._locked_since is None:
            self._locked_since = time.monotonic()
            self._say(f"waiting for {len(self._waiting)} runs that other processes are training")
        elif time.monotonic() - self._locked_since > _WAIT:
            for member in self._waiting:
                self._fail(member, "it is being trained by another process")
            self._waiting.clear()

    def _collect(self, stopped: bool) -> None:
        """Note what has ended."""
        for running in list(self._running):
            member, handle, begin = running
            if (code := handle.poll()) is None:
                continue
            self._running.remove(running)
            if code == 0:
                self._complete += 1
                self._tell(member, f"complete, {duration(time.monotonic() - begin)}")
            elif stopped or (code == 2 and is_locked(member.directory)):
                self._waiting.append(member)
            else:
                self._fail(member, f"{last_output_line(member.directory)} (exit code {code})")

    def _show(self) -> None:
        """Say now and then how far the runs are, by the last line that each printed of its progress."""
        if time.monotonic() - self._shown < _SHOW:
            return
        self._shown = time.monotonic()
        for member, _, _ in self._running:
            self._tell(member, last_output_line(member.directory))

    def _fail(self, member: Member, reason: str) -> None:
        self._failed.append((member, reason))
        self._tell(member, f"FAILED: {reason}")

    def _tell(self, member: Member, what: str) -> None:
        ended = self._complete + len(self._failed)
        self._say(f"[{ended}/{self._total}] {member.directory} · {what}")


def last_line(error: BaseException) -> str:
    """Return what libraries say at the end of their errors, or else the error's kind."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def last_output_line(directory: Path) -> str:
    """Return the last line that a run printed."""
    try:
        lines = (directory / OUTPUT).read_text(encoding="utf-8", errors="replace").strip().split("\n")
    except OSError:
        return "it left no output"
    return lines[-1].strip() or "it printed nothing"


def refuse_doubles(members: Sequence[Member]) -> None:
    """Raises ConfigError when two runs of the sweep would share a directory."""
    seen: dict[Path, Member] = {}
    for member in members:
        other = seen.setdefault(member.directory, member)
        if other is not member:
            keys = [text.partition("=")[0] for text in member.arguments if text not in other.arguments]
            fix = "keep them apart with runs=<another folder>"
            if fingerprint(other.config) == fingerprint(member.config):
                fix = f"they are the same run, so give {' and '.join(keys) or 'each setting'} one value"
            raise ConfigError(
                f"two runs of the sweep would lie in {member.directory} ({' '.join(other.arguments)} and "
                f"{' '.join(member.arguments)}): {fix}"
            )

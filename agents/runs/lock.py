"""One process at a time in a run directory. The lock belongs to the process, so a kill frees it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from qdreamer.configs.schema import ConfigError

NAME = ".lock"
PATIENCE = 0.5  # seconds: `is_locked` of another process holds the lock for a moment


@contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Keep a second process out of the run directory. Raises ConfigError when another one is in it."""
    directory.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(directory / NAME).acquire(timeout=PATIENCE, poll_interval=0.01)
    except Timeout as error:
        raise ConfigError(
            f"{directory} is being trained by another process: wait for it or stop it"
        ) from error
    with lock:
        yield


def is_locked(directory: Path) -> bool:
    """Tell whether a process trains in the directory now."""
    if not (directory / NAME).exists():  # asking leaves nothing behind
        return False
    try:
        with FileLock(directory / NAME).acquire(blocking=False):
            return False
    except Timeout:
        return True

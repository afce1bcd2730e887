"""One process at a time in a run directory. The lock belongs to the process, so a kill frees it."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qdreamer.configs.strict import ConfigError

NAME = ".lock"
PATIENCE = 0.5  # seconds: who only looks whether a lock is taken holds it for a moment


@contextmanager
def exclusive(directory: Path, patience: float = PATIENCE) -> Iterator[None]:
    """Keeps a second process out of the run directory. Raises ConfigError when it is taken.

    Where there is no flock (Windows), there is no lock.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if os.name != "posix":
        yield
        return
    import fcntl

    with (directory / NAME).open("w") as file:
        end = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > end:
                    raise ConfigError(
                        f"{directory} is being trained by another process: wait for it or stop it"
                    ) from error
            time.sleep(0.01)
        yield


def is_locked(directory: Path) -> bool:
    """Whether some process is in there now."""
    if not (directory / NAME).exists():
        return False
    try:
        with exclusive(directory, patience=0.0):
            return False
    except ConfigError:
        return True

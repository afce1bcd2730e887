"""Standard output and error of a command: they never decide whether it goes on."""

import errno
import os
import sys
import threading
from pathlib import Path
from typing import Any, TextIO


def settle() -> None:
    """Make the process's streams bear any terminal, and none.

    Signs that the terminal's encoding lacks are replaced. Where nobody reads any more, because the terminal
    has gone, a pipe was closed or there never was a stream, what is written vanishes.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, Sturdy):
            continue
        if stream is None:
            stream = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 (for good)
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
        setattr(sys, name, Sturdy(stream))
    threading.excepthook = _of_a_thread


def _of_a_thread(what: threading.ExceptHookArgs) -> None:
    """Print what ended a thread, but for files: TensorBoard's thread hands that on to who writes next."""
    if not issubclass(what.exc_type, OSError):
        threading.__excepthook__(what)


class Sturdy:
    """A text stream that falls silent when writing to it fails; all else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._fall_silent(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._fall_silent(error)

    def _fall_silent(self, error: OSError) -> None:
        """Put the null device in the stream's place, also for what it still holds.

        Raises the error if it is not that nobody reads: a full disk is no success.
        """
        if error.errno not in (errno.EPIPE, errno.EBADF, errno.ENXIO, errno.EIO):
            raise error
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._stream.fileno())
        os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

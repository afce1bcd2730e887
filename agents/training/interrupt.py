"""Ctrl-C, SIGTERM and SIGHUP ask a run to save and leave; a second Ctrl-C leaves at once."""

import signal
from types import FrameType
from typing import Any

NUMBERS = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]


class InterruptedTwice(KeyboardInterrupt):
    """Ctrl-C, while an earlier signal is being answered."""


class Interrupt:
    """Context manager; `signal` is the number received, or None. Under nohup a hangup stays ignored."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Interrupt":
        for number in NUMBERS:
            ignored = signal.getsignal(number) is signal.SIG_IGN
            if not ignored or number in (signal.SIGINT, signal.SIGTERM):  # background jobs start without them
                self._previous[number] = signal.signal(number, self._received)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _received(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise InterruptedTwice
        self.signal = number

"""The process belongs to the run: what an environment changes of it is the environment's alone."""

import _signal  # type: ignore[import-not-found]  # signal's own functions convert numbers to enumerations, which takes ten times as long
import locale
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, Self

import numpy as np

_SIGNALS = [int(getattr(signal, name)) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def _folder() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109 (a path of its own for every step would cost more)
    except OSError:  # it was removed
        return None


def _go(folder: str | None) -> None:
    if folder is not None:
        os.chdir(folder)


def _handlers() -> list[Any]:
    return [_signal.getsignal(number) for number in _SIGNALS]


def _handle(handlers: list[Any]) -> None:
    if threading.current_thread() is threading.main_thread():
        for number, handler in zip(_SIGNALS, handlers, strict=True):
            if handler is not None:  # else it was not set by Python
                signal.signal(number, handler)


def _streams() -> tuple[Any, Any]:
    return sys.stdout, sys.stderr


def _speak(streams: tuple[Any, Any]) -> None:
    sys.stdout, sys.stderr = streams


Switch = tuple[Callable[[], Any], Callable[[Any], Any]]

# What can be read of the process, each with what sets it. The run itself never changes the steady ones.
_STEADY: list[Switch] = [
    (_folder, _go),
    (np.geterr, lambda state: np.seterr(**state)),
    (lambda: locale.setlocale(locale.LC_ALL), lambda name: locale.setlocale(locale.LC_ALL, name)),
]
_OTHERS: list[Switch] = [(_streams, _speak)]
_SIGNAL: Switch = (_handlers, _handle)


def _torchs() -> list[Switch]:
    torch = sys.modules.get("torch")
    if torch is None:
        return []
    return [
        (torch.is_grad_enabled, torch.set_grad_enabled),
        (torch.get_default_dtype, torch.set_default_dtype),
        (torch.get_num_threads, torch.set_num_threads),
    ]


class Surroundings:
    """Inside this context the environment finds the process as it left it, outside the run finds its own.

    These are the folder, NumPy's error state, the locale, standard output and error, torch's gradient mode,
    default type and threads; handlers of signals are the run's inside as well. Contexts may be nested.
    """

    def __init__(self) -> None:
        self._depth = 0
        self._switches = [*_STEADY, *_OTHERS, *_torchs(), _SIGNAL]
        self._steady: list[Any] | None = None
        self._theirs: list[Any] | None = None

    def __enter__(self) -> Self:
        self._depth += 1
        if self._depth == 1:
            if self._steady is None:
                self._steady = [read() for read, _ in _STEADY]
            self._ours = self._steady + [read() for read, _ in self._switches[len(_STEADY) :]]
            if self._theirs is not None:
                self._set(self._ours, self._theirs)
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            now = [read() for read, _ in self._switches]
            self._theirs = None
            if now != self._ours:
                self._set(now, self._ours)
                self._theirs = now[:-1]  # handlers of signals are the run's

    def _set(self, old: list[Any], new: list[Any]) -> None:
        for (_, write), before, value in zip(self._switches, old, new):  # noqa: B905 (theirs are fewer)
            if before != value:
                write(value)

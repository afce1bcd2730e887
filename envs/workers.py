"""Copies of an environment in processes of their own, which start clean and end with the run.

They are forked from a server that has imported this room and nothing else: a process with threads, which
torch starts, cannot be forked safely. The user's own script is not imported by them, so it needs no guard
around what it does. Ctrl-C and SIGTERM reach the whole group; what follows is the run's business.
"""

import multiprocessing
import os
import signal
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from numpy.typing import NDArray

from qdreamer.envs.edge.guard import EnvFailure, Member, Unmakeable, is_users, warn
from qdreamer.envs.interface import Interface, Observation
from qdreamer.envs.vector import Outcome, Vector

_METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
_PATIENCE = 10.0  # seconds that a copy has for closing
_LOST = (EOFError, OSError)  # what a pipe says whose other end is gone


class Spaces(gymnasium.Env[Any, Any]):
    """What a vector asks a copy about before its workers start, without another copy."""

    def __init__(self, interface: Interface) -> None:
        self.observation_space = spaces.Dict({name: e.space for name, e in interface.entries.items()})
        self.action_space = interface.action.space


class WorkerVector(Vector):
    """A vector whose copies live in processes. One that dies is named, with what ended it."""

    envs: AsyncVectorEnv

    def __init__(self, envs: AsyncVectorEnv, name: str, interface: Interface, role: str = "") -> None:
        super().__init__(envs, name, interface, role)
        # Before multiprocessing's own way out, which waits for processes that ignore its signal.
        self._end = weakref.finalize(self, _kill, envs.processes)

    def reset(
        self, *, seed: Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        with self._deaths():
            return super().reset(seed=seed, options=options)

    def step(self, actions: NDArray[np.float32]) -> Outcome:
        with self._deaths(actions):
            return super().step(actions)

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        with self._deaths():
            return super().call(name, *args, **kwargs)

    def close(self, **kwargs: Any) -> None:
        """Ask all copies to close; what does not answer is killed."""
        if self.envs.closed:
            return
        for pipe in self.envs.parent_pipes:
            try:
                pipe.send(("close", None))
            except (*_LOST, AttributeError):
                continue
        deadline = monotonic() + _PATIENCE
        for process in self.envs.processes:
            process.join(max(deadline - monotonic(), 0.0))
        if any(process.is_alive() for process in self.envs.processes):
            warn(f"env.id={self._name} did not close within {_PATIENCE:.0f} s: its processes are ended")
        self._end()
        self.envs.closed = True

    @contextmanager
    def _deaths(self, actions: NDArray[np.float32] | None = None) -> Iterator[None]:
        """Raise EnvFailure for a worker process that is gone."""
        try:
            yield
        except _LOST as error:
            for i, process in enumerate(self.envs.processes):
                process.join(1.0 if i == 0 else 0.1)
                if process.exitcode is not None:
                    raise self._failure(
                        i, f"its process ended ({_ended(process.exitcode)})", actions
                    ) from error
            raise EnvFailure(
                f"env.id={self._name}: a process with a copy does not answer any more"
            ) from error


def in_workers(
    name: str, interface: Interface, num_envs: int, make: Callable[[int], Member], role: str = ""
) -> WorkerVector:
    """Return `num_envs` copies that make(index) makes, each in a process of its own. Raises EnvFailure."""
    context = multiprocessing.get_context(_METHOD)
    if _METHOD == "forkserver":
        context.set_forkserver_preload([__name__])
    known = gymnasium.registry.get(name.rpartition(":")[2])
    makers = [_Maker(make, i, interface, known) for i in range(num_envs)]
    try:
        with _without_main():
            envs = AsyncVectorEnv(makers, copy=False, context=_METHOD, autoreset_mode=AutoresetMode.DISABLED)
    except _LOST as error:
        raise EnvFailure(f"env.id={name}: a process for a copy of it ended while it started") from error
    return WorkerVector(envs, name, interface, role)


class _Maker:
    """Makes a copy in a worker, and in the run's own process only what it looks like."""

    def __init__(
        self, make: Callable[[int], Member], index: int, interface: Interface, known: EnvSpec | None
    ) -> None:
        self._make, self._index, self._interface, self._known = make, index, interface, known
        self._run = os.getpid()

    def __call__(self) -> gymnasium.Env[Any, Any]:
        if os.getpid() == self._run:
            return Spaces(self._interface)
        for signal_name in ("SIGINT", "SIGTERM", "SIGHUP"):
            if hasattr(
                signal, signal_name
            ):  # a handler, for simulators that are started here must not inherit
                signal.signal(getattr(signal, signal_name), lambda *_: None)
        if self._known is not None:  # registered by the run's process, perhaps nowhere else
            gymnasium.registry.setdefault(self._known.id, self._known)
        gymnasium.logger.min_level = gymnasium.logger.ERROR
        try:
            return self._make(self._index)
        except BaseException as error:
            if is_users(error):
                raise
            return Member(Unmakeable(Spaces(self._interface), error), "", self._index)


@contextmanager
def _without_main() -> Iterator[None]:
    """Let processes that start now not import the user's script."""
    main = sys.modules["__main__"]
    hidden: dict[str, Any] = {
        name: main.__dict__.pop(name) for name in ("__file__", "__spec__") if name in main.__dict__
    }
    main.__dict__["__spec__"] = None
    try:
        yield
    finally:
        main.__dict__.update(hidden)


def _kill(processes: list[Any]) -> None:
    for process in processes:
        if process.is_alive():
            process.kill()
    for process in processes:
        process.join(1.0)


def _ended(code: int) -> str:
    """Return an exit code in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"

"""The environment's edge: what comes across is checked, and what goes wrong beyond it becomes one line.

A copy of an environment in a vector (`Member`) leaves its errors in `info`, in whatever process it runs; the
vector (`envs.vector`) says which episode and step they belong to.
"""

import linecache
import os
import signal
import sys
import sysconfig
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from qdreamer.configs.console import one_line

FAULT, NOTES = "fault", "notes"  # what a member leaves in `info`, if anything
_LONGEST = 300  # signs of an error's text
_ROOMS = ("agents", "analysis", "configs", "envs", "quantum", "worldmodel")
_OURS = tuple(f"{Path(__file__).parents[2] / room}{os.sep}" for room in _ROOMS)  # beginnings of our own paths
_LIBRARIES = ("<", sysconfig.get_path("stdlib"), *_OURS)  # and of all that are not the user's
_INSTALLED = ("site-packages", "dist-packages")


class EnvError(ValueError):
    """An environment that cannot be used; the message is one line and names the fix."""


class UnknownEnvError(EnvError):
    """An id, or a module that env names, that is not there: what is said, and a hint at another one."""

    def __init__(self, said: str, hint: str = "") -> None:
        super().__init__(said, hint)
        self.said = said

    def __str__(self) -> str:
        return "".join(self.args)


class EnvFailure(EnvError):  # noqa: N818 (an EnvError, of a run that had begun)
    """An environment that failed while it was being used: one line with id, episode, step and action."""


class WrongValueError(ValueError):
    """What an environment showed is not what its space says; the message names the entry."""


def number(reward: Any) -> float:
    """Return a reward, which may be an array of one number. Raises WrongValueError for all else."""
    if not isinstance(reward, float):
        array = np.asarray(reward)
        if array.size != 1 or array.dtype.kind not in "biuf":
            raise WrongValueError(f"the reward is {brief(reward)}, not a number")
        reward = float(array.reshape(())[()])
    if not abs(reward) <= _FINITE:  # replay keeps float32
        raise WrongValueError(f"the reward is {reward}")
    return float(reward)


def flag(name: str, value: Any) -> bool:
    """Return `terminated` or `truncated`. Raises WrongValueError for what is neither true nor false."""
    if value is True or value is False:
        return value
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "biu":
        raise WrongValueError(f"{name} is {brief(value)}, not True or False")
    return bool(array.reshape(())[()])


def brief(value: Any) -> str:
    """Return a value in some words for an error's text."""
    if isinstance(value, np.ndarray) and value.size > 8:
        return f"an array of shape {value.shape} and type {value.dtype}"
    if isinstance(value, np.ndarray):
        return one_line(np.array2string(value, precision=4, separator=", "))
    return shorten(one_line(repr(value.item() if isinstance(value, np.generic) else value)), 80)


def shorten(text: str, longest: int = _LONGEST) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def told(error: BaseException) -> str:
    """Return an error's type and text, and where in the user's own code it was raised; one line."""
    if isinstance(error, WrongValueError):
        return str(error)
    text = shorten(one_line(error))
    name = type(error).__name__ + (f": {text}" if text else "")
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        frame
        for frame in frames
        if not frame.filename.startswith(_LIBRARIES)
        and not any(part in frame.filename for part in _INSTALLED)
    ]
    shown = own or [frame for frame in frames[-1:] if not frame.filename.startswith(_OURS)]
    if not shown:
        return name
    frame = shown[-1]
    source = linecache.getline(frame.filename, frame.lineno or 0).strip()
    return f"{name} ({frame.filename}:{frame.lineno} in {frame.name}" + (f": {source})" if source else ")")


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, as against a KeyboardInterrupt that an environment raises."""


@contextmanager
def told_apart() -> Iterator[None]:
    """Let Ctrl-C raise Interrupted in this context, where Python's own handler is in place."""

    def interrupted(number: int, frame: FrameType | None) -> None:
        raise Interrupted

    python = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not python or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def is_users(error: BaseException) -> bool:
    """Tell whether an error that passes through an environment is Ctrl-C."""
    ours = signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    return isinstance(error, KeyboardInterrupt) and (type(error) is not KeyboardInterrupt or not ours)


def close(env: gymnasium.Env[Any, Any], name: str) -> None:
    """Close an environment; what fails in that is said, and ends nothing."""
    try:
        env.close()
    except BaseException as error:
        if is_users(error):
            raise
        warn(f"env.id={name} cannot be closed: {told(error)}")


_said: set[Any] = set()
_notes: dict[str, str] = {}


def warn(text: str, about: Any = None) -> None:
    """Print a warning, unless one `about` the same was printed before."""
    if (key := about or text) not in _said:
        _said.add(key)
        print(f"warning: {text}", file=sys.stderr, flush=True)


def note(entry: str, text: str) -> None:
    """Leave a remark about an entry, for whoever looks at many copies to print once."""
    _notes.setdefault(entry, text)


class Member(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A copy of an environment in a vector: its errors come out in `info`, and nothing else does.

    Args:
        name: the environment's id. index: place in the vector; only the first one complains about closing.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], name: str, index: int) -> None:
        super().__init__(env)
        self._name, self._index = name, index

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset with `options` None, always: vectors give None at first, and {} later."""
        try:
            return self.env.reset(seed=seed)[0], _remarks()
        except BaseException as error:
            return self._nothing(), _fault(error)

    def step(self, action: NDArray[np.float32]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        try:
            observation, reward, terminal, truncated, _ = self.env.step(action)
        except BaseException as error:
            return self._nothing(), 0.0, False, False, _fault(error)
        return observation, reward, terminal, truncated, _remarks()  # type: ignore[return-value]

    def restore_by_replay(self, seeds: list[int], actions: list[NDArray[np.float32]]) -> Any:
        """Return what the inner one does, or the text of its error."""
        try:
            return self.env.get_wrapper_attr("restore_by_replay")(seeds, actions)
        except BaseException as error:
            return _fault(error)[FAULT]

    def close(self) -> None:
        try:
            self.env.close()
        except BaseException as error:
            if is_users(error):
                raise
            if self._index == 0:
                warn(f"env.id={self._name} cannot be closed: {told(error)}")

    def _nothing(self) -> dict[str, NDArray[Any]]:
        assert isinstance(self.observation_space, spaces.Dict)
        named = self.observation_space.spaces.items()
        return {name: np.zeros(space.shape or (), space.dtype or float) for name, space in named}


def _remarks() -> dict[str, Any]:
    if not _notes:
        return {}
    notes = dict(_notes)
    _notes.clear()
    return {NOTES: list(notes.items())}


def _fault(error: BaseException) -> dict[str, Any]:
    if is_users(error):
        raise error
    return {FAULT: told(error)}


class Unmakeable(gymnasium.Env[Any, Any]):
    """Stands in a worker process for an environment that could not be made there, and says why."""

    def __init__(self, like: gymnasium.Env[Any, Any], error: BaseException) -> None:
        self.observation_space, self.action_space = like.observation_space, like.action_space
        self._error = error

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        raise self._error

    def step(self, action: Any) -> Any:
        raise self._error


class Watch:
    """Looks at the numbers of an entry of N copies together, as they arrive.

    Args:
        name: of the entry. bounds: (low, high) of its Box, flat; None where there are none.
    """

    def __init__(self, name: str, bounds: tuple[NDArray[Any], NDArray[Any]] | None) -> None:
        self._name = name
        low, high = (np.asarray(bound, np.float32) for bound in bounds or (-np.inf, np.inf))  # as the values
        # One comparison finds both numbers outside and those that are not finite.
        self._low, self._high = np.maximum(low, -_FINITE), np.minimum(high, _FINITE)

    def fine(self, values: NDArray[np.float32]) -> bool:
        """Tell whether all numbers (N, ·) are finite and in their space."""
        return bool(((values >= self._low) & (values <= self._high)).all())

    def wrong(self, values: NDArray[np.float32]) -> tuple[int, str] | None:
        """Return the copy whose numbers are not finite, and what to say."""
        odd = np.argwhere(~np.isfinite(values))
        if not len(odd):
            return None
        copy, place = int(odd[0][0]), int(odd[0][1])
        return copy, f"entry {self._name} is {values[copy, place]} at index {place}, which is not finite"

    def outside(self, values: NDArray[np.float32]) -> str:
        """Return what to say, once, about numbers outside the space."""
        copy, place = np.argwhere((values < self._low) | (values > self._high))[0]
        low, high = self._low[place], self._high[place]
        self._low, self._high = np.full_like(self._low, -_FINITE), np.full_like(self._high, _FINITE)
        return (
            f"entry {self._name} is {values[copy, place]:g} at index {place}, outside its space's "
            f"{low:g} to {high:g}"
        )


_FINITE = np.finfo(np.float32).max

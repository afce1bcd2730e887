"""Environments of odd spaces, for benchmarks.environments: each shows what time it is, in its own way.

python train.py env=gym env.id=benchmarks.custom_environments:NestedDict-v0
"""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import Space, spaces

LENGTH = 16
Show = Callable[[int], Any]


class Clock(gymnasium.Env[Any, Any]):
    """An element of `observation` for each time; an action that `right(time, action)` approves earns 1."""

    metadata = {"render_modes": []}  # noqa: RUF012 - Gymnasium's convention

    def __init__(
        self,
        observation: Space[Any],
        action: Space[Any],
        show: Show,
        right: Callable[[int, Any], bool],
        mask: Show | None = None,
    ) -> None:
        self.observation_space, self.action_space = observation, action
        self._show, self._right, self._mask = show, right, mask

    def _see(self) -> tuple[Any, dict[str, Any]]:
        return self._show(self.time), {} if self._mask is None else {"action_mask": self._mask(self.time)}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = int(self.np_random.integers(4))
        self._end = self.time + LENGTH
        return self._see()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self._mask is not None and not self._mask(self.time)[action]:
            raise ValueError(f"action {action} is forbidden")
        reward = float(self._right(self.time, action))
        self.time += 1
        seen, info = self._see()
        return seen, reward, self.time == self._end, False, info


def _frame(shape: tuple[int, ...], axis: int) -> Show:
    """Return a function to bytes of which one row, along `axis`, is bright."""

    def show(time: int) -> Any:
        frame = np.zeros(shape, np.uint8)
        np.moveaxis(frame, axis, 0)[time % shape[axis]] = 200
        return frame

    return show


TWO = spaces.Discrete(2)
NESTED = spaces.Dict(
    clock=spaces.Dict(hour=spaces.Discrete(4), hands=spaces.Tuple([spaces.Box(-1, 1, (2,)), TWO])),
    words=spaces.Text(4, charset="at 01234567"),
)


def _nested(time: int) -> Any:
    hands = np.array([np.sin(time), np.cos(time)], np.float32)
    return {
        "clock": {"hour": np.int64(time % 4), "hands": (hands, np.int64(time % 2))},
        "words": f"at {time % 8}",
    }


def _parity(time: int, action: Any) -> bool:
    return bool(action == time % 2)


def _mask(time: int) -> Any:
    return np.arange(5) % 2 == time % 2


CLOCKS: dict[str, dict[str, Any]] = {
    "NestedDict": {
        "observation": NESTED,
        "action": spaces.Dict(bit=TWO, way=spaces.Box(-2, 3, (2,))),
        "show": _nested,
        "right": lambda time, action: action["bit"] == time % 2 and action["way"][0] > 0,
    },
    "MultiBinary": {
        "observation": spaces.MultiBinary([2, 2]),
        "action": spaces.MultiBinary(2),
        "show": lambda time: (np.arange(4).reshape(2, 2) == time % 4).astype(np.int8),
        "right": lambda time, action: bool((action == [time % 2, time // 2 % 2]).all()),
    },
    "Int8": {
        "observation": spaces.Box(-100, 100, (2, 3), np.int8),
        "action": spaces.MultiDiscrete([2, 3]),
        "show": lambda time: np.full((2, 3), 7 * (time % 8) - 20, np.int8),
        "right": lambda time, action: action[0] == time % 2,
    },
    "Float64": {
        "observation": spaces.Box(-np.inf, np.inf, (3,), np.float64),
        "action": spaces.Box(-5, 1, (2, 2), np.float64),
        "show": lambda time: np.array([1e3 * np.sin(time), 1e-3 * np.cos(time), time], np.float64),
        "right": lambda time, action: action.mean() > 0,
    },
    "ChannelsFirst": {
        "observation": spaces.Box(0, 255, (3, 24, 32), np.uint8),
        "action": TWO,
        "show": _frame((3, 24, 32), 2),
        "right": _parity,
    },
    "Cube": {
        "observation": spaces.Box(0, 255, (5, 5, 5), np.uint8),
        "action": TWO,
        "show": _frame((5, 5, 5), 2),
        "right": _parity,
    },
    "Start": {
        "observation": spaces.Discrete(6, start=-3),
        "action": spaces.Discrete(2, start=5),
        "show": lambda time: np.int64(time % 6 - 3),
        "right": lambda time, action: action == 5 + time % 2,
    },
    "Masked": {
        "observation": spaces.Dict(time=spaces.Discrete(4), action_mask=spaces.MultiBinary(5)),
        "action": spaces.Discrete(5),
        "show": lambda time: {"time": np.int64(time % 4), "action_mask": _mask(time).astype(np.int8)},
        "right": lambda time, action: action == 2,
        "mask": _mask,
    },
}

for _name, _parts in CLOCKS.items():
    gymnasium.register(
        f"{_name}-v0", lambda parts=_parts, **kwargs: Clock(**parts, **kwargs), max_episode_steps=50
    )

"""Environments that do what they should not, each in one way, at once or in their 25th step."""

import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

LATE = 25  # step of a copy: beyond all that is tried before a run starts
LENGTH = 10  # steps of an episode


class TwoPartError(Exception):
    """An error that cannot be made of one text, as processes would have to."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"{where}\nbecause of {why}")


def throw(error: BaseException) -> Any:
    raise error


def leave() -> Any:
    sys.exit("the simulator says good-bye")


Step = tuple[Any, Any, Any, Any, Any]
SHOWN: dict[str, Callable[[], Any]] = {  # instead of an observation
    "nan": lambda: np.float32([0.0, np.nan]),
    "inf": lambda: np.float32([np.inf, 0.0]),
    "minus_inf": lambda: np.float32([0.0, -np.inf]),
    "overflow": lambda: np.array([0.0, 1e300]),
    "none": lambda: None,
    "long": lambda: np.zeros(3, np.float32),
    "empty": lambda: np.zeros(0, np.float32),
    "row": lambda: np.zeros((1, 2), np.float32),
    "list": lambda: [0.0, 0.5],
    "doubles": lambda: np.zeros(2),
    "integers": lambda: np.zeros(2, np.int64),
    "objects": lambda: np.array([None, 1.0], object),
    "words": lambda: np.array(["a", "b"]),
    "complex": lambda: np.zeros(2, np.complex64),
    "outside": lambda: np.float32([0.0, 7.0]),
    "raise": lambda: throw(ValueError("no\nsuch thing")),
    "two_parts": lambda: throw(TwoPartError("here", "that")),
    "exit": leave,
    "ctrl_c": lambda: throw(KeyboardInterrupt()),
    "die": lambda: os._exit(3),
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
}
REWARDS: dict[str, Any] = {
    "nan": float("nan"), "inf": float("inf"), "none": None, "word": "much", "pair": np.zeros(2),
    "one": np.ones(1), "float32": np.float32(1.0), "list": [1.0],
}  # fmt: skip
FLAGS: dict[str, Any] = {"none": None, "word": "no", "array": np.array([False]), "integer": 0, "pair": [0, 0]}
INFOS: dict[str, Callable[[int], Any]] = {
    "none": lambda time: None,
    "list": lambda time: [1, 2],
    "ragged": lambda time: {"touched": np.arange(time % 4)},
    "unpicklable": lambda time: {"hook": lambda: time},
    "odd_keys": lambda time: {1: 2, None: 3},
}
RESULTS: dict[str, Any] = {"four": (np.zeros(2), 0.0, False, {}), "nothing": None, "six": (0, 0, 0, 0, 0, 0)}


class Odd(gymnasium.Env[Any, Any]):
    """Two numbers in [−1, 1] and two actions; `fault` is "part_kind", `when` init, reset, step or late."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)
    sick = True  # else nothing is wrong with any of them

    def __init__(self, fault: str = "", when: str = "step", render_mode: str | None = None) -> None:
        self.part, _, self.kind = fault.partition("_")
        self.when, self.steps, self.time, self.render_mode = when, 0, 0, render_mode
        if when == "init":
            SHOWN[self.kind]()

    def due(self, call: str) -> bool:
        if not self.sick:
            return False
        return self.when == call or (self.when == "late" and call == "step" and self.steps >= LATE)

    def good(self) -> Any:
        return self.np_random.uniform(-1, 1, 2).astype(np.float32)

    def bad(self) -> Any:
        return SHOWN[self.kind]()

    def shown(self, call: str) -> Any:
        return self.bad() if self.part == "shows" and self.due(call) else self.good()

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.time = 0
        late = self.sick and self.when == "late reset" and self.steps >= LATE
        observation = self.bad() if late else self.shown("reset")
        if self.part == "info":
            return observation, INFOS[self.kind](0)
        return observation if self.part == "alone" else (observation, {})

    def step(self, action: Any) -> Any:
        assert action in self.action_space, f"{action} is not in {self.action_space}"
        self.time, self.steps = self.time + 1, self.steps + 1
        reward, terminal, truncated, info = 1.0, self.time >= LENGTH, False, {}
        observation = self.shown("step")
        if self.due("step"):
            if self.part == "result":
                return RESULTS[self.kind]
            if self.part == "reward":
                reward = REWARDS[self.kind]
            if self.part == "flag":
                truncated = FLAGS[self.kind]
        if self.part == "info":
            info = INFOS[self.kind](self.time)
        if self.part == "ends":
            terminal, truncated = {"never": (False, False), "both": (True, True), "once": (True, False)}[
                self.kind
            ]
        return observation, reward, terminal, truncated, info

    def close(self) -> None:
        if self.part == "close":
            SHOWN[self.kind]()


class OddSpace(Odd):
    """The same with another space, and what is shown against it."""

    def __init__(self, fault: str, when: str = "step") -> None:
        super().__init__(fault, when)
        self.observation_space, self._good, self._bad = {
            "class": (spaces.Discrete(5), 4, 5),
            "class_below": (spaces.Discrete(5, start=1), np.int64(1), 0),
            "class_wrapped": (spaces.Discrete(5), 4, 256),
            "class_half": (spaces.Discrete(5), 4, 1.5),
            "class_float": (spaces.Discrete(5), 4, 3.0),
            "classes": (spaces.MultiDiscrete([2, 3]), np.array([1, 2]), np.array([2, 2])),
            "bits": (spaces.MultiBinary(2), np.array([0, 1]), np.array([0, 2])),
            "frame_layout": (spaces.Box(0, 255, (3, 8, 8), np.uint8), np.zeros((3, 8, 8), np.uint8),
                             np.zeros((8, 8, 3), np.uint8)),
            "frame_floats": (spaces.Box(0, 255, (8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8),
                             np.full((8, 8, 3), 0.5)),
            "frame_bright": (spaces.Box(0, 1, (8, 8, 3)), np.ones((8, 8, 3), np.float32),
                             np.full((8, 8, 3), 200.0, np.float32)),
            "frame_nan": (spaces.Box(0, 1, (8, 8, 3)), np.ones((8, 8, 3), np.float32),
                          np.full((8, 8, 3), np.nan, np.float32)),
            "entry": (spaces.Dict(a=spaces.Discrete(2), b=spaces.Box(0, 1, (2,))),
                      {"a": 0, "b": np.zeros(2)}, {"a": 0}),
            "text": (spaces.Dict(a=spaces.Discrete(2), words=spaces.Text(9)), {"a": 0, "words": "go"},
                     {"a": 0, "words": None}),
        }[fault]  # fmt: skip
        self.part = "shows"

    def good(self) -> Any:
        return self._good

    def bad(self) -> Any:
        return self._bad


class Masked(Odd):
    """A mask of three actions in `info`, which later has four."""

    action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return super().reset(seed=seed)[0], {"action_mask": np.ones(3, np.int8)}

    def step(self, action: Any) -> Any:
        mask = np.ones(3 + (self.steps > LATE), np.int8)
        return *super().step(action)[:4], {"action_mask": mask}


class Meddler(Odd):
    """Changes its process in all ways, and relies on what it left."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        os.chdir(folder)
        Path("here").write_text("")
        np.seterr(all="raise")

    def step(self, action: Any) -> Any:
        import torch

        assert Path("here").exists(), "the environment's own folder is gone"
        assert np.geterr()["over"] == "raise"
        if self.steps:
            assert torch.get_default_dtype() == torch.float64
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(3)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        sys.stdout = sys.stderr
        return super().step(action)


class Model(Odd):
    """Computes with torch, on several threads."""

    def step(self, action: Any) -> Any:
        import torch

        torch.set_num_threads(2)
        assert float(torch.full((200_000,), float(action)).exp().mean()) > 0.0
        return super().step(action)


class Port(Odd):
    """One at a time, as a simulator on a fixed port."""

    most, held = 1, 0

    def __init__(self, fault: str = "") -> None:
        super().__init__(fault)
        if Port.held == Port.most:
            raise OSError("address already in use")
        Port.held += 1

    def close(self) -> None:
        Port.held -= 1


class Seeder(Odd):
    """Seeds everything anew in every step."""

    def step(self, action: Any) -> Any:
        import torch

        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002 (as old environments do)
        random.seed(0)
        return super().step(action)


class Level(Odd):
    """Takes a level in its options, if there are any."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.level = 1 if options is None else options["level"]
        return super().reset(seed=seed)


def register() -> None:
    """Make them known to Gymnasium."""
    for maker in (Odd, OddSpace, Masked, Meddler, Model, Level, Port, Seeder):
        gymnasium.register(f"{maker.__name__}-v0", entry_point=maker)

"""Environments in the agent's terms: entries and masks come out of vectors, and come back on resume."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from qdreamer.agents.cli.composition import load_config
from qdreamer.envs.config import EnvConfig
from qdreamer.envs.entries import Mask
from qdreamer.envs.factory import describe, make_env, make_vector
from qdreamer.envs.interface import summary

LIMIT = 4


class Everything(gymnasium.Env[Any, Any]):
    """Shows the time in all ways that there are, and keeps the last action."""

    metadata = {"render_modes": []}  # noqa: RUF012 - Gymnasium's convention
    observation_space = spaces.Dict(
        frame=spaces.Box(0, 255, (3, 8, 7), np.uint8),
        task=spaces.Text(20),
        more=spaces.Tuple(
            [spaces.Discrete(9, start=1), spaces.MultiBinary(2), spaces.Box(-9, 9, (2,), np.int8)]
        ),
        graph=spaces.Graph(spaces.Box(0, 1, (1,)), None),
    )
    action_space = spaces.Dict(jump=spaces.MultiBinary(2), way=spaces.Discrete(3))

    def _show(self) -> dict[str, Any]:
        return {
            "frame": np.full((3, 8, 7), self.time, np.uint8),
            "task": f"step {self.time}",
            "more": (np.int64(self.time + 1), np.array([1, 0], np.int8), np.array([self.time, -3], np.int8)),
            "graph": None,
        }

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.time = 0
        return self._show(), {}

    def step(self, action: Any) -> Any:
        assert action in self.action_space
        self.time += 1 + int(action["way"])
        return self._show(), 1.0, self.time >= LIMIT, False, {}


class Masked(gymnasium.Env[Any, Any]):
    """One of four actions, of which only that with the number of the time is allowed."""

    def __init__(self, place: str = "info", absent: bool = False) -> None:
        self.observation_space = spaces.Box(0, 9, (1,))
        self.action_space = spaces.Discrete(4)
        if place == "entry":
            self.observation_space = spaces.Dict(
                seen=self.observation_space, action_mask=spaces.MultiBinary(4)
            )
        self.place, self.absent, self.time = place, absent, 0

    def _show(self) -> Any:
        seen, mask = np.array([self.time], np.float32), np.eye(4, dtype=np.int8)[self.time % 4]
        if self.place == "entry":
            return {"seen": seen, "action_mask": mask}, {}
        return seen, {} if self.absent and self.time else {"action_mask": mask}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.time = 0
        return self._show()

    def step(self, action: Any) -> Any:
        self.time += 1
        observation, info = self._show()
        return observation, 0.0, False, False, info


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    gymnasium.register("Everything-v0", entry_point=Everything, disable_env_checker=True)
    gymnasium.register("Masked-v0", entry_point=Masked)
    yield
    del gymnasium.registry["Everything-v0"], gymnasium.registry["Masked-v0"]


def env_config(env_id: str, **changes: Any) -> EnvConfig:
    return replace(load_config([]).env, id=env_id, **changes)


EVERYTHING = {"entries": {"graph": "ignore"}}


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_vectors_show_all_entries_side_by_side(vectorization: str) -> None:
    config = env_config("Everything-v0", vectorization=vectorization, **EVERYTHING)
    envs = make_vector(config, 2)
    try:
        envs.reset(seed=[0, 2])
        actions = np.array([[1, 0, 0, 1, 1, 0, 0], [1, 0, 0, 1, 0, 1, 0]], np.float32)
        observation, _, _terminal, *_ = envs.step(actions)  # times 1 and 2
        assert set(observation) == {"frame", "task", "more/0", "more/1", "more/2"}
        np.testing.assert_array_equal(observation["frame"], [np.full((8, 7, 3), 1), np.full((8, 7, 3), 2)])
        np.testing.assert_array_equal(observation["more/0"], [[1], [2]])
        np.testing.assert_array_equal(observation["more/1"], [[1, 0], [1, 0]])
        np.testing.assert_array_equal(observation["more/2"], [[1, -3], [2, -3]])
        assert not np.array_equal(*observation["task"])
        assert {name: values.dtype.name for name, values in observation.items()} == {
            "frame": "uint8", "task": "uint8", "more/0": "uint8", "more/1": "uint8", "more/2": "float32",
        }  # fmt: skip
        back = envs.call("restore_by_replay", [0, 2], [actions[:1], actions[1:]])
        for name, values in observation.items():
            np.testing.assert_array_equal([one[name] for one in back], values)
    finally:
        envs.close()


def test_what_an_environment_was_taken_for_is_said() -> None:
    interface = describe(env_config("Everything-v0", **EVERYTHING))
    assert summary(interface.observation, interface.action).splitlines() == [
        "observation: frame: image 8×7×3; task: text, by 64 hashes of words; more/0: classes 9; "
        "more/1: 2 bits; more/2: vector of 2",
        "action: 2 × one of 2, one of 3",
    ]
    plain = describe(env_config("Pendulum-v1"))
    assert summary(plain.observation, plain.action) == "observation: vector of 3\naction: 1 in [−1, 1]"


@pytest.mark.parametrize("place", ["info", "entry"])
def test_masks_are_entries_wherever_they_come_from(place: str) -> None:
    config = env_config("Masked-v0", kwargs={"place": place})
    env = make_env(config)
    assert env.interface.observation["action_mask"] == Mask(4)
    observation, _ = env.reset(seed=0)
    for time in range(6):
        assert observation in env.observation_space
        np.testing.assert_array_equal(observation["action_mask"], np.eye(4)[time % 4])
        observation, *_ = env.step(np.eye(4, dtype=np.float32)[0])
    assert "action_mask" not in describe(replace(config, entries={"action_mask": "ignore"})).entries
    observed = describe(replace(config, entries={"action_mask": "vector"})).observation["action_mask"]
    assert observed == Mask(4, observed=True)


def test_a_step_without_a_mask_allows_everything() -> None:
    env = make_env(env_config("Masked-v0", kwargs={"absent": True}))
    np.testing.assert_array_equal(env.reset(seed=0)[0]["action_mask"], [1, 0, 0, 0])
    np.testing.assert_array_equal(env.step(np.ones(4, np.float32))[0]["action_mask"], 1)


def test_taxis_mask_is_found() -> None:
    env = make_env(env_config("Taxi-v4" if "Taxi-v4" in gymnasium.registry else "Taxi-v3"))
    observation, info = env.reset(seed=0)
    np.testing.assert_array_equal(observation["action_mask"], info["action_mask"])
    assert observation["observation"].shape == (1,)


def test_entries_are_named_by_dots_on_the_command_line() -> None:
    config = load_config(["env.entries.a.b=ignore", "env.entries.frame=image"]).env
    assert config.entries == {"a/b": "ignore", "frame": "image"}

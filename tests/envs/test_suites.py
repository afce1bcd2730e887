"""Suites in packages of their own: whose ids they are, and what is said when they are missing."""

import sys
from typing import Any

import gymnasium
import numpy as np
import pytest

from qdreamer.agents.cli.composition import load_config
from qdreamer.envs.factory import EnvError, make_env, make_raw
from qdreamer.envs.repeated import Repeated
from qdreamer.envs.suites.atari import LifeLoss, Pooled
from qdreamer.envs.suites.known import installs, rendering_hint

EXTRAS = {
    "ALE/Pong-v5": "pip install 'qdreamer[atari]'",
    "MiniGrid-DoorKey-5x5-v0": "pip install 'qdreamer[minigrid]'",
    "BabyAI-GoToLocal-v0": "pip install 'qdreamer[minigrid]'",
    "MinAtar/Breakout-v1": "pip install minatar (GPL-3)",
    "popgym-RepeatPreviousEasy-v0": "pip install 'qdreamer[popgym]'",
    "dm_control/cartpole-swingup-v0": "pip install 'qdreamer[dmc]'",
    "CrafterReward-v1": "pip install 'qdreamer[crafter]'",
    "LunarLander-v3": "pip install 'qdreamer[box2d]'",
    "HalfCheetah-v5": "pip install 'qdreamer[mujoco]'",
}
MODULES = ("ale_py", "minigrid", "minatar", "popgym", "shimmy", "crafter", "Box2D", "mujoco")


@pytest.mark.parametrize("env_id", EXTRAS)
def test_a_missing_suite_names_what_installs_it(env_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lazy = "gymnasium.envs.box2d", "gymnasium.envs.mujoco"
    loaded = [name for name in sys.modules if name.split(".")[0] in MODULES or name.startswith(lazy)]
    for module in loaded:
        monkeypatch.delitem(sys.modules, module)
    for module in MODULES:
        monkeypatch.setitem(sys.modules, module, None)  # importing it fails, as where it is not installed
    if not env_id.startswith(("LunarLander", "HalfCheetah", "Crafter")):
        monkeypatch.delitem(gymnasium.registry, env_id, raising=False)
    with pytest.raises(EnvError) as caught:
        make_raw(load_config(["env=gym", f"env.id={env_id}"]).env)
    assert str(caught.value).startswith(f"env.id={env_id}: {EXTRAS[env_id]}")
    assert "\n" not in str(caught.value)


def test_other_ids_belong_to_no_suite() -> None:
    assert installs("CartPole-v1") is None
    assert installs("my_package:MyEnv-v0") is None


def test_mujoco_without_a_screen_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL"):
        monkeypatch.delenv(name, raising=False)
    config = load_config(["env=gym", "env.id=HalfCheetah-v5"]).env
    with pytest.raises(EnvError, match=r"^env.id=HalfCheetah-v5 cannot be rendered .* set MUJOCO_GL=egl$"):
        make_raw(config, render_mode="rgb_array")
    assert rendering_hint("HalfCheetah-v5") == ""
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    assert rendering_hint("HalfCheetah-v5") == " (with MUJOCO_GL=osmesa: try egl)"
    assert rendering_hint("CartPole-v1") == ""


class Game(gymnasium.Env[Any, int]):
    """Counts frames in one pixel; the player has lost a life after three."""

    observation_space = gymnasium.spaces.Box(0, 255, (1, 1), np.uint8)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self) -> None:
        self.ale, self.frame = self, 0

    def lives(self) -> int:
        return 3 - self.frame // 3

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.frame = 0
        return np.full((1, 1), 9, np.uint8), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.frame += 1
        pixel = np.full((1, 1), 8 if self.frame % 2 else 1, np.uint8)
        return pixel, 1.0, False, False, {"lives": self.lives()}


def test_frames_of_atari_are_pooled_in_pairs() -> None:
    env = Pooled(Game())
    seen = [env.reset()[0], *(env.step(0)[0] for _ in range(3))]
    assert [int(frame[0, 0]) for frame in seen] == [9, 9, 8, 8]
    assert int(env.reset()[0][0, 0]) == 9  # nothing of the game before
    repeated = Repeated(Pooled(Game()), 4)
    repeated.reset()
    assert int(repeated.step(0)[0][0, 0]) == 8  # frames 3 and 4, of which the last alone shows 1


def test_a_lost_life_ends_the_episode_by_choice() -> None:
    env = LifeLoss(Game())
    env.reset()
    assert [env.step(0)[2] for _ in range(4)] == [False, False, True, False]


def test_atari_takes_every_action_for_four_frames() -> None:
    pytest.importorskip("ale_py")
    env = make_env(load_config(["env=atari_pong"]).env)
    observation, _ = env.reset(seed=0)
    before = env.unwrapped.ale.getEpisodeFrameNumber()  # type: ignore[attr-defined]
    env.step(env.action_space.sample())
    assert env.unwrapped.ale.getEpisodeFrameNumber() - before == 4  # type: ignore[attr-defined]
    assert observation["observation"].shape == (64, 64, 1)
    assert env.interface.action.size == 6


def test_minigrid_shows_image_direction_and_mission() -> None:
    pytest.importorskip("minigrid")
    observation, _ = make_env(load_config(["env=minigrid_doorkey"]).env).reset(seed=0)
    assert {name: values.shape for name, values in observation.items()} == {
        "image": (7, 7, 3), "direction": (1,), "mission": (64,),
    }  # fmt: skip


def test_dm_control_is_cut_after_a_thousand_frames() -> None:
    pytest.importorskip("dm_control")
    env = make_env(load_config(["env=dmc_cartpole_swingup"]).env)
    observation, _ = env.reset(seed=0)
    assert observation["observation"].shape == (5,)
    action = np.zeros(1, np.float32)
    ends = [env.step(action)[2:4] for _ in range(500)]
    assert ends == [(False, False)] * 499 + [(False, True)]


def test_crafter_has_one_world_for_each_seed() -> None:
    pytest.importorskip("crafter")
    env = make_env(load_config(["env=crafter"]).env)

    def episode(seed: int) -> list[Any]:
        first, _ = env.reset(seed=seed)
        actions = np.eye(env.interface.action.size, dtype=np.float32)[[1, 2, 3, 4] * 5]
        return [
            first["observation"].copy(),
            *(env.step(action)[0]["observation"].copy() for action in actions),
        ]

    one, other, again = episode(3), episode(4), episode(3)
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one[0], other[0])

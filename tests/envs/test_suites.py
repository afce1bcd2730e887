"""Suites in packages of their own: whose ids they are, and what is said when they are missing."""

import sys

import gymnasium
import pytest

from qdreamer.agents.cli.composition import load_config
from qdreamer.envs.factory import EnvError, make_raw
from qdreamer.envs.suites import installs

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

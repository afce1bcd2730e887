"""Environments: spaces, wrappers, seeds, errors, and that every config in configs/env works."""

import copy
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import assume, given
from hypothesis import strategies as st

from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.cli.overrides import CONFIGS
from qdreamer.envs.config import EnvConfig
from qdreamer.envs.factory import EnvError, check_env, make_env, make_raw, make_vector
from qdreamer.envs.seeds import evaluation_seed, training_seed
from qdreamer.envs.wrappers import hide_entries

NAMED = sorted(path.stem for path in (CONFIGS / "env").glob("*.yaml") if path.stem != "gym")


def env_config(env_id: str = "CartPole-v1", **changes: Any) -> EnvConfig:
    return replace(load_config([]).env, id=env_id, **changes)


class Echo(gymnasium.Env):
    """Observes 0 … n − 1 (times its step number) and keeps the last action that it was given."""

    def __init__(
        self, size: int = 3, low: Any = -1.0, high: Any = 1.0, shape: tuple[int, ...] = (2,)
    ) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float64)
        self.action_space = spaces.Box(
            np.broadcast_to(np.float32(low), shape),
            np.broadcast_to(np.float32(high), shape),
            dtype=np.float32,
        )
        self.got: Any = None

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.arange(self.observation_space.shape[0], dtype=np.float64), {}

    def step(self, action: Any) -> Any:
        self.got = np.array(action)
        return 2.0 * np.arange(self.observation_space.shape[0]), 0.0, False, False, {}


class Raises(Echo):
    """Fails in the way that it is told to."""

    def __init__(self, when: str = "step") -> None:
        super().__init__()
        self.when = when
        if when == "init":
            raise AssertionError("no\ngood")

    def reset(self, **kwargs: Any) -> Any:
        if self.when == "reset":
            raise IndexError("out of\nrange")
        return super().reset(**kwargs)

    def step(self, action: Any) -> Any:
        if self.when == "step":
            raise RuntimeError("stuck")
        return super().step(action)


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    gymnasium.register("Echo-v0", entry_point=Echo)
    gymnasium.register("Raises-v0", entry_point=Raises)
    yield
    del gymnasium.registry["Echo-v0"], gymnasium.registry["Raises-v0"]


# --- hidden observations


@given(st.data())
def test_hiding_keeps_the_others_in_order(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, 6))
    hide = data.draw(st.lists(st.integers(0, size - 1), unique=True, min_size=1, max_size=size - 1))
    env = hide_entries(Echo(size), tuple(hide))
    kept = [i for i in range(size) if i not in hide]
    observation, _ = env.reset(seed=0)
    np.testing.assert_array_equal(observation, kept)
    np.testing.assert_array_equal(env.step(env.action_space.sample())[0], 2.0 * np.array(kept))
    assert env.observation_space.shape == (len(kept),)
    assert observation in env.observation_space


@given(st.lists(st.integers(-3, 6), min_size=1, max_size=6))
def test_hiding_refuses_all_else(hide: list[int]) -> None:
    assume(not (set(hide) < {0, 1, 2} and len(set(hide)) == len(hide)))
    with pytest.raises(ValueError, match="from 0 to 2"):
        hide_entries(Echo(3), tuple(hide))


def test_hidden_bounds_follow_their_entries() -> None:
    full, part = make_raw(env_config()), make_raw(env_config(hide=(1, 3)))
    for bound in ("low", "high"):
        whole = getattr(full.observation_space, bound)
        np.testing.assert_array_equal(getattr(part.observation_space, bound), whole[[0, 2]])
    whole, _ = full.reset(seed=5)
    np.testing.assert_array_equal(part.reset(seed=5)[0], whole[[0, 2]])


# --- actions


@given(
    st.floats(-50, 49, width=32),
    st.floats(0.125, 50, width=32),
    st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=2),
)
def test_actions_are_rescaled_to_one(low: float, span: float, action: list[float]) -> None:
    env = make_env(env_config("Echo-v0", kwargs={"low": low, "high": low + span}))
    assert env.action_space == spaces.Box(-1.0, 1.0, (2,), np.float32)
    env.reset(seed=0)
    env.step(np.float32(action))
    expected = low + (np.float64(action) + 1.0) / 2.0 * span
    np.testing.assert_allclose(env.unwrapped.got, expected, atol=1e-4)


def test_actions_of_any_shape_and_bounds_per_entry() -> None:
    env = make_env(
        env_config("Echo-v0", kwargs={"low": [[0.0, -4.0]], "high": [[1.0, 8.0]], "shape": (1, 2)})
    )
    env.reset(seed=0)
    for action, expected in ((-1.0, [[0.0, -4.0]]), (0.0, [[0.5, 2.0]]), (1.0, [[1.0, 8.0]])):
        env.step(np.full(2, action, np.float32))
        np.testing.assert_allclose(env.unwrapped.got, expected, atol=1e-5)


def test_actions_beyond_one_are_clipped() -> None:
    env = make_env(env_config("Echo-v0", kwargs={"low": -3.0, "high": 5.0}))
    env.reset(seed=0)
    env.step(np.array([7.0, -1.5], np.float32))
    np.testing.assert_array_equal(env.unwrapped.got, [5.0, -3.0])


# --- seeds

KEYS = st.tuples(st.integers(0, 2**31 - 1), st.integers(0, 1000), st.integers(0, 10**7))


@given(KEYS, KEYS)
def test_training_and_evaluation_never_share_a_seed(training: Any, evaluation: Any) -> None:
    seed, other = training_seed(*training), evaluation_seed(evaluation[0], evaluation[2])
    assert seed % 2 == 0 and other % 2 == 1
    assert 0 <= seed < 2**31 and 0 <= other < 2**31
    assert (seed, other) == (training_seed(*training), evaluation_seed(evaluation[0], evaluation[2]))


def test_seeds_differ_between_runs_environments_and_episodes() -> None:
    training = {training_seed(r, e, k) for r in range(5) for e in range(5) for k in range(40)}
    evaluation = {evaluation_seed(s, k) for s in range(20) for k in range(50)}
    assert len(training) == len(evaluation) == 1000


def test_seeds_are_the_ones_of_earlier_versions() -> None:
    """Returns of different versions compare only over the same episodes."""
    assert [evaluation_seed(0, i) for i in range(3)] == [917752063, 750514629, 2079358539]
    assert [training_seed(0, 0, i) for i in range(3)] == [1484405854, 1658617642, 600855684]


# --- coming back from seed and actions


def _state(env: Any, action: Any) -> tuple[Any, ...]:
    observation, reward, terminal, truncated, _ = env.step(action)
    return observation["observation"], reward, terminal, truncated


@pytest.mark.parametrize("steps", [0, 1, 37])
@pytest.mark.parametrize(
    "env_id",
    [
        "CartPole-v1",
        "Pendulum-v1",
        "Acrobot-v1",
        "MountainCar-v0",
        "MountainCarContinuous-v0",
        "LunarLander-v3",
        "FrozenLake-v1",
    ],
)
def test_recreate_is_exact(env_id: str, steps: int) -> None:
    """A fresh environment, brought back, goes on exactly like the one that never stopped."""
    old = make_env(env_config(env_id), index=1)
    old.action_space.seed(3)
    old.reset(seed=11)
    for _ in range(9):  # a used environment, so that nothing of an earlier episode may matter
        old.step(old.action_space.sample())
    observation, _ = old.reset(seed=20)
    actions: list[Any] = []
    for _ in range(steps):
        action = old.action_space.sample()
        observation, _, terminal, truncated, _ = old.step(action)
        actions.append(action)
        if terminal or truncated:
            observation, _ = old.reset(seed=20)
            actions.clear()
    new = make_env(env_config(env_id), index=1)
    back = new.restore_by_replay([0, 20], [[], actions])
    np.testing.assert_array_equal(back["observation"], observation["observation"])
    for _ in range(20):
        action = old.action_space.sample()
        here, there = _state(old, action), _state(new, action)
        for one, other in zip(here, there, strict=True):
            np.testing.assert_array_equal(one, other)
        if here[2] or here[3]:
            break


def test_recreate_reaches_every_member_of_a_vector() -> None:
    config = env_config("Pendulum-v1")
    old, new = make_vector(config, 3), make_vector(config, 3)
    seeds = [4, 8, 2]
    observation, _ = old.reset(seed=seeds)
    old.action_space.seed(0)
    taken = [old.action_space.sample() for _ in range(5)]
    for action in taken:
        observation, *_ = old.step(action)
    back = new.call("restore_by_replay", seeds, [[action[i] for action in taken] for i in range(3)])
    np.testing.assert_array_equal(np.stack([one["observation"] for one in back]), observation["observation"])
    old.close()
    new.close()


# --- the factory


def test_wrappers_of_the_current_folder_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_wrappers_of_a_test.py").write_text(
        "from gymnasium.wrappers import TransformReward\n"
        "def Tenfold(env):\n    return TransformReward(env, lambda reward: 10.0 * reward)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    env = make_env(env_config(wrappers=("my_wrappers_of_a_test:Tenfold",) * 2))
    env.reset(seed=0)
    assert env.step(np.array([1.0, 0.0], np.float32))[1] == 100.0


def test_environments_of_the_current_folder_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_env_of_a_test.py").write_text(
        "import gymnasium\nfrom gymnasium.envs.classic_control import CartPoleEnv\n"
        "gymnasium.register('MyOwn-v0', entry_point=CartPoleEnv)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    assert make_env(env_config("my_env_of_a_test:MyOwn-v0")).observation_space["observation"].shape == (4,)
    del gymnasium.registry["MyOwn-v0"]


def test_repeated_actions_add_up_their_rewards() -> None:
    env = make_env(env_config(repeat=5))
    plain = make_raw(env_config())
    env.reset(seed=3), plain.reset(seed=3)
    seen, reward, *_ = env.step(np.array([0.0, 1.0], np.float32))
    for _ in range(5):
        expected, *_ = plain.step(1)
    np.testing.assert_array_equal(seen["observation"], expected)
    assert reward == 5.0


@pytest.mark.parametrize("choice", NAMED)
def test_every_named_environment_runs(choice: str) -> None:
    config = load_config([f"env={choice}"]).env
    try:
        check_env(config)
    except EnvError as error:
        if "pip install" in str(error) or "MUJOCO_GL" in str(error):
            pytest.skip(str(error))
        raise
    env = make_env(config)
    env.action_space.seed(0)
    observation, _ = env.reset(seed=0)
    for _ in range(5):
        assert observation in env.observation_space
        assert all(np.isfinite(values).all() for values in observation.values())
        observation, reward, *_ = env.step(env.action_space.sample())
        assert np.isfinite(reward)
    env.close()


def test_masked_cartpole_hides_the_velocities() -> None:
    config = load_config(["env=CartPoleMasked"]).env
    observation, _ = make_raw(config).reset(seed=1)
    whole, _ = make_raw(env_config()).reset(seed=1)
    np.testing.assert_array_equal(observation, whole[[0, 2]])


def test_episodes_end_at_the_given_step() -> None:
    env = make_env(env_config("Pendulum-v1", max_episode_steps=3))
    env.reset(seed=0)
    ends = [_state(env, np.zeros(1, np.float32))[2:] for _ in range(3)]
    assert ends == [(False, False), (False, False), (False, True)]


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_vectors_do_not_reset_themselves(vectorization: str) -> None:
    envs = make_vector(env_config(vectorization=vectorization, max_episode_steps=2), 2)
    try:
        first = copy.deepcopy(envs.reset(seed=[6, 8])[0])
        for i, seed in enumerate((6, 8)):
            np.testing.assert_array_equal(first["observation"][i], make_raw(env_config()).reset(seed=seed)[0])
        left = np.array([[1, 0], [1, 0]], np.float32)
        envs.step(left)
        ended, _, _, truncated, _ = copy.deepcopy(envs.step(left))
        assert truncated.all()
        again, _ = envs.reset(seed=[6, 8], options={"reset_mask": np.array([True, False])})
        np.testing.assert_array_equal(again["observation"][0], first["observation"][0])
        np.testing.assert_array_equal(again["observation"][1], ended["observation"][1])
    finally:
        envs.close()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"env_id": "Cartpole-v7"}, "did you mean CartPole-v1?"),
        ({"env_id": "Zzz-v0"}, "needs that package's module"),
        ({"env_id": "gymnasium:Cartpole-v7"}, "did you mean CartPole-v1?"),
        ({"env_id": "tests.storm.dots:Dots-v0"}, "did you mean tests.storm.dots:Dot-v0?"),
        ({"env_id": "gymnasium:Zzz-v0"}, "gymnasium registers no such name"),
        ({"env_id": "no spaces allowed"}, "cannot be made"),
        ({"hide": (7,)}, "from 0 to 3"),
        ({"kwargs": {"id": "Acrobot-v1"}}, "set env.id instead"),
        ({"kwargs": {"sutton": 1}}, "it takes sutton_barto_reward"),
        ({"wrappers": ("nothing",)}, "as my.module:MyWrapper"),
        ({"wrappers": ("nowhere:Wrapper",)}, "env.wrappers=nowhere:Wrapper cannot be imported"),
        ({"wrappers": ("math:pi",)}, "TypeError"),
        ({"entries": {"pixels": "ignore"}}, "names no entry of the observation; they are observation"),
        ({"env_id": "Raises-v0", "kwargs": {"when": "init"}}, "when=init: AssertionError: no good"),
        (
            {"env_id": "Raises-v0", "kwargs": {"when": "reset"}},
            "failed in the reset of episode 1 (seed 0): IndexError: out of range",
        ),
        ({"env_id": "Raises-v0"}, "RuntimeError: stuck"),
    ],
)
def test_environments_that_cannot_be_used(config: dict[str, Any], words: str) -> None:
    with pytest.raises(EnvError) as caught:
        check_env(env_config(**config))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("env_id", ["Echo-v0", "Echo", "gymnasium:Echo-v0", "gymnasium:Echo"])
def test_any_way_to_write_an_id_leads_to_its_maker(env_id: str) -> None:
    with pytest.raises(EnvError, match="takes no render_mode"):
        make_env(env_config(env_id), render_mode="rgb_array")
    with pytest.raises(EnvError, match=r"kwargs\.speed is no argument.*it takes"):
        make_env(env_config(env_id, kwargs={"speed": 1}))


def test_a_rendered_picture_is_an_image_entry() -> None:
    env = make_env(load_config(["env=CartPolePixels"]).env)
    observation, _ = env.reset(seed=0)
    (picture,) = observation.values()
    assert picture.shape == (64, 64, 3)
    assert picture.dtype == np.uint8
    assert len(np.unique(picture)) > 2  # the cart is there
    env.close()

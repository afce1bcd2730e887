"""Memory tasks: what every step shows, what is asked for and paid, and that everything around them works."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

from qdreamer.agents.cli.command_line import main
from qdreamer.agents.cli.composition import load_config
from qdreamer.envs.factory import EnvError, make_raw, make_vector

TASKS = ["pairs", "pairs_long", "tmaze", "tmaze_long", "repeat_previous"]


class Step(NamedTuple):
    """An observation, the action taken on it, and what that earned."""

    seen: np.ndarray
    action: int
    reward: float


def preset(task: str, *overrides: str) -> Any:
    return make_raw(load_config([f"env={task}", *overrides]).env)


def play(env: Any, seed: int, policy: Callable[[list[np.ndarray]], int]) -> tuple[list[Step], np.ndarray]:
    """One episode of a policy that sees all observations so far; and the observation after it."""
    seen, steps, terminal = [env.reset(seed=seed)[0]], [], False
    while not terminal:
        action = policy(seen)
        observation, reward, terminal, truncated, _ = env.step(action)
        steps.append(Step(seen[-1], action, reward))
        seen.append(observation)
        assert not truncated
    return steps, seen[-1]


def number(bits: np.ndarray) -> int:
    return int("".join("1" if bit > 0 else "0" for bit in bits), 2)


def zero(seen: list[np.ndarray]) -> int:
    return 0


def remember_pairs(seen: list[np.ndarray]) -> int:
    values = {tuple(x[:3]): number(x[3:5]) for x in seen if x[5] == 0 and x[0] != 0}
    return values[tuple(seen[-1][:3])] if seen[-1][5] == 1 else 0


def remember_cue(seen: list[np.ndarray]) -> int:
    return number(seen[0][:2])


def remember_four(seen: list[np.ndarray]) -> int:
    return number(seen[-5]) if len(seen) > 4 else 0


MEMORY = {
    "pairs": remember_pairs, "pairs_long": remember_pairs,
    "tmaze": remember_cue, "tmaze_long": remember_cue, "repeat_previous": remember_four,
}  # fmt: skip
BEST = {"pairs": 10.0, "pairs_long": 10.0, "tmaze": 1.0, "tmaze_long": 1.0, "repeat_previous": 1.0}
BLIND = {"pairs": 2.5, "pairs_long": 2.5, "tmaze": 0.25, "tmaze_long": 0.25, "repeat_previous": -0.5}


# --- what a step shows


@pytest.mark.parametrize(("task", "delay", "length"), [("pairs", 1, 25), ("pairs_long", 24, 48)])
@pytest.mark.parametrize("seed", range(20))
def test_pairs(task: str, delay: int, length: int, seed: int) -> None:
    env = preset(task)
    assert env.observation_space.shape == (7,) and env.action_space == spaces.Discrete(4)
    steps, last = play(env, seed, lambda seen: seed % 4)
    shown = np.array([step.seen for step in steps])
    key, value, flag = shown[:, :3], shown[:, 3:5], shown[:, 5]
    assert len(steps) == length == 4 + delay + 20
    assert set(np.unique(shown[:, :5])) == {-1.0, 0.0, 1.0}
    assert (key[:4] != 0).all() and (value[:4] != 0).all() and (flag[:4] == 0).all()
    known = {tuple(k): tuple(v) for k, v in zip(key[:4], value[:4], strict=True)}
    assert len(known) == 4, "keys do not repeat"
    assert (shown[4 : 4 + delay, :6] == 0).all()
    asks, tells = np.arange(4 + delay, length, 2), np.arange(5 + delay, length, 2)
    assert (flag[asks] == 1).all() and (value[asks] == 0).all()
    assert (flag[tells] == -1).all() and (key[tells] == 0).all()
    for ask, tell in zip(asks, tells, strict=True):
        assert known[tuple(key[ask])] == tuple(value[tell])
        assert steps[ask].reward == float(number(value[tell]) == seed % 4)
    assert all(steps[i].reward == 0 for i in range(length) if i not in asks)
    assert (last[:6] == 0).all()


def test_pairs_draws_every_key_and_value_and_asks_for_every_pair() -> None:
    env, keys, values, places = preset("pairs"), np.zeros(8), np.zeros(4), np.zeros(4)
    for seed in range(300):
        shown = np.array([step.seen for step in play(env, seed, zero)[0]])
        order = [number(x[:3]) for x in shown[:4]]
        keys[order] += 1
        for x in shown[:4]:
            values[number(x[3:5])] += 1
        for x in shown[5::2]:
            places[order.index(number(x[:3]))] += 1
    for counts in (keys, values, places):  # five standard deviations of a binomial count
        n, p = counts.sum(), 1 / len(counts)
        assert np.abs(counts - n * p).max() < 5 * np.sqrt(n * p * (1 - p))


@pytest.mark.parametrize(("task", "corridors"), [("tmaze", range(8, 16)), ("tmaze_long", range(40, 41))])
def test_tmaze(task: str, corridors: range) -> None:
    env, met = preset(task), set()
    assert env.observation_space.shape == (5,) and env.action_space == spaces.Discrete(4)
    for seed in range(100):
        steps, last = play(env, seed, lambda seen, seed=seed: seed % 4)
        shown, corridor = np.array([step.seen for step in steps]), len(steps) - 2
        met.add(corridor)
        assert (shown[0, :2] != 0).all() and shown[0, 2] == 0
        assert (shown[1:corridor, :3] == 0).all()
        assert list(shown[corridor, :3]) == [0, 0, 1]
        assert list(shown[corridor + 1, :3]) == [*shown[0, :2], -1]
        right = float(number(shown[0, :2]) == seed % 4)
        assert [step.reward for step in steps] == [0.0] * corridor + [right, 0.0]
        assert (last[:3] == 0).all()
    assert met == set(corridors)


@pytest.mark.parametrize("seed", range(20))
def test_repeat_previous(seed: int) -> None:
    env = preset("repeat_previous")
    assert env.observation_space.shape == (2,) and env.action_space == spaces.Discrete(4)
    steps, last = play(env, seed, lambda seen: len(seen) % 4)
    shown = np.array([step.seen for step in steps])
    values = [number(x) for x in shown]
    assert len(steps) == 64 and (np.abs(shown) == 1).all() and (last == 0).all()
    for t, step in enumerate(steps):
        sign = 1 if t >= 4 and step.action == values[t - 4] else -1
        assert step.reward == (0 if t < 4 else pytest.approx(sign / 60))


@pytest.mark.parametrize(
    ("task", "noise"), [("pairs", 1), ("pairs_long", 1), ("tmaze", 2), ("tmaze_long", 2)]
)
def test_noise_is_drawn_anew_each_step(task: str, noise: int) -> None:
    env, found = preset(task), []
    for seed in range(100):
        steps, last = play(env, seed, zero)
        found += [step.seen[-noise:] for step in steps] + [last[-noise:]]
    values = np.concatenate(found)
    n = len(values)
    assert len(np.unique(values)) == n
    assert abs(values.mean()) < 5 / np.sqrt(n) and abs(values.var() - 1) < 5 * np.sqrt(2 / n)
    assert abs(np.corrcoef(values[:-noise], values[noise:])[0, 1]) < 5 / np.sqrt(n)


# --- what it earns


@pytest.mark.parametrize("task", TASKS)
def test_memory_earns_the_best_return(task: str) -> None:
    env = preset(task)
    returns = [sum(step.reward for step in play(env, seed, MEMORY[task])[0]) for seed in range(50)]
    assert returns == pytest.approx([BEST[task]] * 50)
    assert load_config([f"env={task}"]).env.solved <= BEST[task]


@pytest.mark.parametrize("task", TASKS)
def test_guessing_earns_the_blind_return(task: str) -> None:
    """Its mean over 400 episodes lies within four standard errors."""
    env, rng = preset(task), np.random.default_rng(0)
    guess = lambda seen: int(rng.integers(4))  # noqa: E731
    returns = [sum(step.reward for step in play(env, seed, guess)[0]) for seed in range(400)]
    asks = {"pairs": 10, "pairs_long": 10, "repeat_previous": 60}.get(task, 1)
    span = 2 / 60 if task == "repeat_previous" else 1.0  # between a right and a wrong answer
    error = span * np.sqrt(asks * 0.25 * 0.75 / 400)
    assert abs(np.mean(returns) - BLIND[task]) < 4 * error


# --- seeds and sizes


@pytest.mark.parametrize(
    ("task", "first"),
    [
        (
            "pairs",
            [
                [-1, 1, -1, -1, -1, 0, 0.0413],
                [1, -1, -1, 1, 1, 0, -2.33],
                [-1, 1, 1, 1, -1, 0, -0.219],
                [1, 1, -1, 1, 1, 0, -1.25],
                [0, 0, 0, 0, 0, 0, -0.732],
                [-1, 1, 1, 0, 0, 1, -0.544],
                [0, 0, 0, 1, -1, -1, -0.316],
            ],
        ),
        ("tmaze", [[1, 1, 0, -0.132, 0.64], [0, 0, 0, 0.105, -0.536]]),
        ("repeat_previous", [[1, 1], [1, -1], [1, -1], [-1, 1], [-1, 1], [-1, -1]]),
    ],
)
def test_first_episodes_are_the_ones_of_earlier_versions(task: str, first: list[list[float]]) -> None:
    """Claims of different versions compare only over the same episodes."""
    steps, _ = play(preset(task), 0, zero)
    shown = np.array([step.seen for step in steps[: len(first)]])
    np.testing.assert_allclose(shown, first, rtol=5e-3)


@pytest.mark.parametrize(
    ("task", "sums"),
    [
        ("pairs", [30.0, -146.0, 0.0, 30.0, 156.0, -10.0, 25.2]),
        ("pairs_long", [30.0, -376.0, 0.0, 30.0, 386.0, -10.0, -109.53]),
        ("tmaze", [-13.0, 13.0, -1.0, -16.04, -27.64]),
        ("tmaze_long", [-41.0, 41.0, -1.0, -179.57, -34.76]),
        ("repeat_previous", [-342.0, 328.0]),
    ],
)
def test_whole_episodes_too(task: str, sums: list[float]) -> None:
    """The sum of each entry over an episode, weighted by its step so that its place counts."""
    shown = np.array([step.seen for step in play(preset(task), 1, zero)[0]], np.float64)
    assert np.arange(len(shown)) @ shown == pytest.approx(sums, abs=0.01)


@pytest.mark.parametrize("task", TASKS)
def test_the_seed_determines_the_episode(task: str) -> None:
    one, other = preset(task), preset(task)
    play(other, 5, zero)
    first, second = (np.array([s.seen for s in play(env, 7, zero)[0]]) for env in (one, other))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(one.reset()[0], one.reset()[0]) or task == "repeat_previous"


def test_sizes_are_arguments() -> None:
    pairs = gymnasium.make("qdreamer/Pairs-v0", pairs=8, value_bits=3, delay=0, asks=2, noise=0)
    assert pairs.observation_space.shape == (7,) and pairs.action_space == spaces.Discrete(8)
    steps, _ = play(pairs, 0, zero)
    assert len(steps) == 12
    assert sorted(number(step.seen[:3]) for step in steps[:8]) == list(range(8))
    maze = gymnasium.make("qdreamer/TMaze-v0", shortest=3, longest=3, value_bits=1, noise=0)
    assert maze.observation_space.shape == (2,) and len(play(maze, 0, zero)[0]) == 5
    repeat = gymnasium.make("qdreamer/RepeatPrevious-v0", k=1, length=3, value_bits=1)
    assert [abs(step.reward) for step in play(repeat, 0, zero)[0]] == [0, 0.5, 0.5]


@pytest.mark.parametrize(
    ("task", "kwargs", "words"),
    [
        ("pairs", "env.kwargs.pairs=9", "pairs=9 must lie between 1 and the 8 keys of 3 bits"),
        ("tmaze", "env.kwargs.shortest=16", "shortest=16 must lie between 1 and longest=15"),
        ("repeat_previous", "env.kwargs.k=64", "k=64 must lie between 1 and length - 1 = 63"),
        ("pairs", "env.kwargs.ask=2", "did you mean asks?"),
    ],
)
def test_sizes_that_cannot_be(task: str, kwargs: str, words: str) -> None:
    with pytest.raises(EnvError) as caught:
        preset(task, kwargs)
    assert words in str(caught.value)


# --- the world around them


@pytest.mark.parametrize("name", ["Pairs", "TMaze", "RepeatPrevious"])
@pytest.mark.filterwarnings("ignore:.*space m.*imum value is -?infinity")  # the noise
def test_gymnasium_accepts_them(name: str) -> None:
    check_env(gymnasium.make(f"qdreamer/{name}-v0", render_mode="rgb_array").unwrapped)


@pytest.mark.parametrize("task", TASKS)
def test_pictures_show_the_episode_so_far(task: str) -> None:
    env = make_raw(load_config([f"env={task}"]).env, render_mode="rgb_array")
    env.reset(seed=0)
    before = env.render()
    env.step(0)
    assert before.shape == env.render().shape and before.dtype == np.uint8
    assert (before[:, 16:] == before[0, -1]).all(), "nothing of later steps shows"
    assert not np.array_equal(before, env.render())


@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize("task", ["pairs", "tmaze", "repeat_previous"])
def test_vectors_come_back_from_seeds_and_actions(task: str, vectorization: str) -> None:
    config = load_config([f"env={task}", f"env.vectorization={vectorization}"]).env
    old, new = make_vector(config, 3), make_vector(config, 3)
    try:
        seeds = [4, 8, 2]
        old.reset(seed=seeds)
        taken = [np.eye(4, dtype=np.float32)[[i % 4, 1, 2]] for i in range(7)]
        for actions in taken:
            observation, *_ = old.step(actions)
        back = new.call("restore_by_replay", seeds, [[a[i] for a in taken] for i in range(3)])
        observed = [one["observation"] for one in back]
        np.testing.assert_array_equal(observed, observation["observation"])
        (one, *others), (other, *ours) = old.step(taken[0])[:4], new.step(taken[0])[:4]
        np.testing.assert_array_equal(one["observation"], other["observation"])
        for one, other in zip(others, ours, strict=True):
            np.testing.assert_array_equal(one, other)
    finally:
        old.close()
        new.close()


# --- presets


@pytest.mark.parametrize("agent", ["classical", "hybrid"])
@pytest.mark.parametrize(
    ("task", "length", "ratio", "solved"),
    [
        ("pairs", 32, 32, 9.0),
        ("pairs_long", 16, 64, 8.0),
        ("tmaze", 32, 128, 0.9),
        ("tmaze_long", 16, 128, 0.9),
        ("repeat_previous", 32, 128, 0.9),
    ],
)
def test_presets_hold_the_settings_of_claims(
    agent: str, task: str, length: int, ratio: float, solved: float
) -> None:
    config = load_config([f"env={task}", f"agent={agent}"])
    assert (config.train.batch_length, config.train.replay_ratio) == (length, ratio)
    assert (config.env.num_envs, config.steps, config.env.solved) == (16, 30_000, solved)
    assert (config.optimizer.lr, config.optimizer.warmup) == (0.003, 100)
    assert (config.agent.entropy["discrete"], config.agent.imagination_horizon) == (0.02, 6)
    assert config.sequence.deter == 128
    assert (config.evaluation.every, config.evaluation.episodes) == (2_000, 20)


def test_what_is_on_the_command_line_wins_over_a_preset() -> None:
    config = load_config(
        ["env=pairs", "train.batch_length=8", "optimizer.lr=1e-4", "agent.entropy.discrete=0"]
    )
    assert (config.train.batch_length, config.optimizer.lr, config.agent.entropy["discrete"]) == (
        8,
        1e-4,
        0.0,
    )


@pytest.mark.parametrize(
    ("task", "parent", "seen", "steps"),
    [
        ("CartPoleNoVelocity", "CartPole", [0, 2], 20_000),
        ("PendulumNoVelocity", "Pendulum", [0, 1], 20_000),
        ("MountainCarContinuousNoVelocity", "MountainCarContinuous", [0], 50_000),
    ],
)
def test_velocities_can_be_hidden(task: str, parent: str, seen: list[int], steps: int) -> None:
    config, whole = load_config([f"env={task}"]).env, load_config([f"env={parent}"]).env
    assert (config.id, config.solved, config.steps) == (whole.id, whole.solved, steps)
    np.testing.assert_array_equal(make_raw(config).reset(seed=3)[0], make_raw(whole).reset(seed=3)[0][seen])


def test_classical_trains_on_pairs(tmp_path: Path) -> None:
    main(["env=pairs", "agent=classical", "steps=600", f"runs={tmp_path}", "kernels=false"])
    (metrics,) = tmp_path.glob("pairs/classical*/seed_0/metrics.jsonl")
    last = [json.loads(line) for line in metrics.read_text().splitlines()][-1]
    assert 0 <= last["eval/return"] <= 10
    assert (metrics.parent / "checkpoint.pt").exists()

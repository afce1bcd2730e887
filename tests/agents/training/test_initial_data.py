"""Replay that begins with a file of episodes, or with what another run has seen."""

import numpy as np
import pytest
import torch

from benchmarks.replay_data import cliffwalk
from qdreamer.agents.training.training import Run, make_learner
from qdreamer.configs.schema import ConfigError
from qdreamer.envs.tasks.cliffwalk import Cliffwalk, right_action

SMALL = (
    *("agent=classical", "world_model.units=8", "world_model.deter=16", "world_model.hidden=8"),
    *("world_model.stoch=3", "world_model.classes=4", "train.batch_size=4", "train.batch_length=4"),
    *("agent.imagination_starts=2", "agent.imagination_horizon=3", "logging.writers=[jsonl]"),
)
CLIFF = ("env=cliffwalk", "env.kwargs={n: 4}", "train.collect=false", *SMALL)


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "data.npz"

    def write(**changes):
        columns = cliffwalk(4) | changes
        np.savez(path, **{name: values for name, values in columns.items() if values is not None})
        return path

    return write


def run_in(config, directory):
    directory.mkdir(exist_ok=True)
    return Run(config, directory)


class Silent:
    """Progress that says nothing."""

    def __getattr__(self, name):
        return lambda *a, **k: None


def test_the_cliffwalk_is_the_frozen_one():
    """One path of n right actions, given by the parity of a hash; all else ends with nothing."""
    assert [right_action(i) for i in range(12)] == [
        bin(i * 2654435761 % 2**32).count("1") % 2 for i in range(12)
    ]
    env = Cliffwalk(3)
    env.reset()
    for i in range(3):
        observation, reward, terminal, _, _ = env.step(right_action(i))
    assert (reward, terminal) == (1.0, True)
    assert not observation.any()
    env.reset()
    observation, reward, terminal, _, _ = env.step(1 - right_action(0))
    assert (reward, terminal) == (0.0, True)


def test_every_sequence_once_and_one_reward():
    columns = cliffwalk(12)
    assert int((~columns["is_last"]).sum()) == 8190
    assert int(columns["is_last"].sum()) == 4096
    assert columns["reward"].sum() == 1.0


@pytest.mark.parametrize("num_envs", [1, 3])
def test_all_rows_are_there_from_the_beginning(make_config, tmp_path, data, num_envs):
    config = make_config(*CLIFF, f"replay.initial={data()}", f"env.num_envs={num_envs}")
    run = run_in(config, tmp_path / "run")
    columns, replay = cliffwalk(4), run.replay
    assert replay.rows == len(columns["reward"])
    stored = [replay._data["reward"][e, : replay._added[e]] for e in range(num_envs)]
    assert sum(x.sum() for x in stored) == 1.0
    first = [replay._data["is_first"][e, : replay._added[e]] for e in range(num_envs)]
    assert all(x[0] for x in first)
    assert sum(x.sum() for x in first) == columns["is_first"].sum()
    if num_envs == 1:
        actions = replay._data["action"][0, : replay.rows]
        inside = ~columns["is_last"]
        assert (actions[inside].argmax(1) == columns["action"][inside]).all()
        assert not actions[~inside].any()
    run.close()


def test_the_last_action_of_an_episode_counts_for_nothing(make_config, tmp_path, data):
    columns = cliffwalk(4)
    actions = np.where(columns["is_last"], -1, columns["action"])
    run = run_in(make_config(*CLIFF, f"replay.initial={data(action=actions)}"), tmp_path / "run")
    assert not run.replay._data["action"][0, :46][columns["is_last"]].any()
    run.close()


def test_images_lie_in_files(make_config, tmp_path):
    """Observations are the one field that is mapped; the same batches come of it."""
    batches = []
    for mapped in ("false", "true"):
        random = np.random.default_rng(0)
        path, rows = tmp_path / "images.npz", 60
        last = np.arange(rows) % 20 == 19
        np.savez(
            path, observation=random.integers(0, 256, (rows, 64, 64, 3)).astype(np.uint8),
            action=random.integers(0, 2, rows), reward=random.normal(size=rows),
            is_first=np.roll(last, 1), is_last=last, is_terminal=last,
        )  # fmt: skip
        words = "env=CartPolePixels", *SMALL, f"replay.initial={path}", f"replay.mapped={mapped}"
        run = run_in(make_config(*words, "replay.capacity=100"), tmp_path / mapped)
        batches.append(run.replay.sample(8).rows)
        run.close()
    assert all(np.array_equal(batches[0][name], batches[1][name]) for name in batches[0])


def test_learning_without_collecting_resumes_exactly(make_config, tmp_path, data):
    words = (*CLIFF, f"replay.initial={data()}", "evaluation.every=10", "evaluation.episodes=2")
    words += ("train.replay_ratio=16",)
    lines = []
    for name, stops in (("whole", [24]), ("parts", [10, 24])):
        for steps in stops:
            run = run_in(make_config(*words, f"steps={steps}"), tmp_path / name)
            run.train(Silent())
            run.close()
        text = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        lines.append([line for line in text if '"eval/return"' in line][-1].split('"time/')[0])
        assert run.learner.updates == 24  # one at each step
        assert run.replay.rows == len(cliffwalk(4)["reward"])
    assert lines[0] == lines[1]


def test_what_another_run_has_seen(make_config, tmp_path):
    before = run_in(
        make_config("env=CartPole", *SMALL, "steps=150", "train.prefill=150"), tmp_path / "before"
    )
    before.train(Silent())
    before.close()
    words = "env=CartPole", *SMALL, f"replay.initial={tmp_path / 'before'}"
    replay = make_learner(make_config(*words), tmp_path / "empty").replay
    assert replay.rows == 0  # a run fills it
    run = run_in(make_config(*words), tmp_path / "after")
    ends = np.flatnonzero(before.replay._data["is_last"][0])
    assert run.replay.rows == ends[-1] + 1 > 0  # whole episodes
    for name in ("observation", "action", "reward", "is_terminal"):
        stored = run.replay._data[name][0, : run.replay.rows]
        assert np.array_equal(stored, before.replay._data[name][0, : run.replay.rows])
    assert torch.isfinite(run.learner.update()["loss/observation"])
    run.close()


def changed(name, at, value):
    values = cliffwalk(4)[name].copy()
    values[at] = value
    return {name: values}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"reward": None}, "there is no array reward; a row has observation, action, reward"),
        ({"reward": cliffwalk(4)["reward"][:-1]}, r"reward has the shape \(45,\), not \(46,\)"),
        (
            {"observation": cliffwalk(4)["observation"][:, :3]},
            r"observation has the shape \(46, 3\), not \(46, 4\)",
        ),
        (changed("reward", 3, np.nan), "reward must hold finite numbers"),
        (changed("action", 1, 7), "action must be a class from 0 to 1"),
        ({"action": np.full((46, 2), 3.0)}, "action must hold numbers from −1 to 1"),
        (changed("reward", 3, np.inf), "reward must hold finite numbers"),
        ({"reward": np.full(46, 1e300)}, "reward must hold finite numbers"),
        (changed("is_first", 0, False), "row 0 breaks an episode"),
        (changed("is_last", -1, False), "row 45 breaks an episode"),
        (changed("is_terminal", 0, True), "row 0 is_terminal and not is_last"),
        ({"reward": np.array([None] * 46)}, "cannot be read as npz of plain arrays"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(make_config, tmp_path, data, changes, said):
    with pytest.raises(ConfigError, match=f"replay.initial=.*{said}"):
        Run(make_config(*CLIFF, f"replay.initial={data(**changes)}"), tmp_path / "run")


@pytest.mark.parametrize(
    ("number", "said"), [(16, "whole numbers from 0, below 16"), (-1, "numbers of the type uint8")]
)
def test_a_class_that_is_not_there_is_refused(make_config, tmp_path, number, said):
    rows = {"observation": [[0], [15], [number]], "action": [0, 1, 2], "reward": [0.0, 0.0, 1.0]}
    flags = {"is_first": [1, 0, 0], "is_last": [0, 0, 1], "is_terminal": [0, 0, 1]}
    np.savez(
        tmp_path / "lake.npz", **rows, **{name: np.array(bits, np.bool_) for name, bits in flags.items()}
    )
    words = ("env=gym", "env.id=FrozenLake-v1", "train.collect=false", "train.batch_length=2", *SMALL[:-1])
    with pytest.raises(ConfigError, match=rf"replay\.initial=.*observation must hold {said}"):
        Run(make_config(*words, f"replay.initial={tmp_path / 'lake.npz'}"), tmp_path / "run")


def test_what_is_not_there_or_too_much(make_config, tmp_path, data):
    with pytest.raises(ConfigError, match="no such file or run directory"):
        Run(make_config(*CLIFF, "replay.initial=nowhere.npz"), tmp_path / "a")
    with pytest.raises(
        ConfigError, match=r"46 rows for one of env\.num_envs=1 rings, which have room for 40"
    ):
        Run(make_config(*CLIFF, f"replay.initial={data()}", "replay.capacity=40"), tmp_path / "b")
    with pytest.raises(ConfigError, match=r"no sequence of train\.batch_length=64 rows"):
        Run(make_config(*CLIFF, f"replay.initial={data()}", "train.batch_length=64"), tmp_path / "c")
    np.save(tmp_path / "single.npy", np.zeros(3))
    with pytest.raises(ConfigError, match="it holds a single array"):
        Run(make_config(*CLIFF, f"replay.initial={tmp_path / 'single.npy'}"), tmp_path / "d")
    with pytest.raises(ConfigError, match=r"train\.collect=false needs replay\.initial"):
        make_config(*CLIFF)

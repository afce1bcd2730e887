"""Every row that reaches replay is real, counted once, and ends as the environment said."""

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest

from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.training.training import Run

LENGTHS = (3, 5, 2, 7)
SMALL = [
    "agent=classical",
    "world_model.units=8", "world_model.deter=8", "world_model.hidden=8", "world_model.stoch=2",
    "world_model.classes=4", "train.batch_length=4", "agent.imagination_starts=2",
    "logging.writers=[jsonl]", "evaluation.episodes=2",
]  # fmt: skip


class Counting(gymnasium.Env[Any, Any]):
    """Shows (reset seed's last digits, step); rewards the step; odd seeds' episodes time out."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        assert seed is not None
        self.key, self.time = seed % 1000, 0
        self.length = LENGTHS[(seed // 2) % 4]
        self.times_out = (seed // 8) % 2 == 0
        return self._see(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        over = self.time == self.length
        return self._see(), float(self.time), over and not self.times_out, over and self.times_out, {}

    def _see(self) -> Any:
        return np.array([self.key, self.time], np.float32)


@pytest.fixture
def run(tmp_path: Any) -> Iterator[Run]:
    gymnasium.register("Counting-v0", entry_point=Counting)
    config = load_config([*SMALL, "env=gym", "env.id=Counting-v0", "env.num_envs=3"])
    run = Run(config, tmp_path)
    yield run
    run.close()
    del gymnasium.registry["Counting-v0"]


def test_rows_are_exactly_the_episodes(run: Run) -> None:
    episodes = [e for _ in range(60) for e in run.collector.step(random=False)]
    data = run.replay.state_dict()["data"]
    added = run.replay.state_dict()["added"]
    assert sum(added) == 3 * 60 + len(episodes)  # one row per step, one more per finished episode
    finished = 0
    for env, count in enumerate(added):
        rows = {name: column[env, :count].numpy() for name, column in data.items()}
        begins = np.flatnonzero(rows["is_first"])
        assert begins[0] == 0
        for begin, end in zip(begins, [*begins[1:], count], strict=True):
            key, time = rows["observation"][begin:end].T
            assert (key == key[0]).all()  # one episode
            np.testing.assert_array_equal(time, np.arange(end - begin))  # no row missing or doubled
            np.testing.assert_array_equal(rows["reward"][begin:end], time)  # arrives with its observation
            assert not rows["is_last"][begin : end - 1].any()
            assert rows["is_last"][end - 1] or end == count
            if rows["is_last"][end - 1]:
                finished += 1
                assert not rows["action"][end - 1].any()  # nothing was done after the end
            assert (rows["action"][begin : end - 1].sum(-1) == 1.0).all()
    assert finished == len(episodes)


def test_truncation_is_not_termination(run: Run) -> None:
    episodes = [e for _ in range(80) for e in run.collector.step(random=True)]
    state = run.replay.state_dict()
    last = np.concatenate([state["data"]["is_last"][e, :n].numpy() for e, n in enumerate(state["added"])])
    terminal = np.concatenate(
        [state["data"]["is_terminal"][e, :n].numpy() for e, n in enumerate(state["added"])]
    )
    assert not (terminal & ~last).any()
    assert last.sum() == len(episodes)
    assert 0 < terminal.sum() < last.sum()  # both kinds of ending occurred


def test_scores_and_lengths(run: Run) -> None:
    episodes = [e for _ in range(40) for e in run.collector.step(random=True)]
    assert {e.length for e in episodes} <= set(LENGTHS)
    assert all(e.score == e.length * (e.length + 1) / 2 for e in episodes)


def test_state_round_trip_goes_on_identically(run: Run, tmp_path: Any) -> None:
    for _ in range(17):
        run.collector.step(random=False)
    collector, replay = run.collector.state_dict(), run.replay.state_dict()
    (tmp_path / "other").mkdir()
    other = Run(run.config, tmp_path / "other")
    other.agent.load_state_dict(run.agent.state_dict())
    other.replay.load_state_dict(replay)
    assert other.collector.load_state_dict(collector)
    first = [run.collector.step(random=False) for _ in range(30)]
    assert [other.collector.step(random=False) for _ in range(30)] == first
    for name, column in run.replay.state_dict()["data"].items():
        np.testing.assert_array_equal(other.replay.state_dict()["data"][name], column, err_msg=name)
    other.close()

"""`qdreamer.Replay`: the buffer by itself."""

from typing import Any

import numpy as np
import pytest

import qdreamer
from qdreamer.configs.schema import ConfigError

FIELDS = {"observation": ((2,), np.float32), "reward": ((), np.float32)}


def filled(sampler: str, **settings: object) -> qdreamer.Replay:
    replay = qdreamer.Replay(FIELDS, capacity=64, length=4, sampler=sampler, num_envs=2, **settings)
    for t in range(20):
        rows = np.array([[t, 0.0], [t, 1.0]], np.float32)
        replay.add(np.arange(2), {"observation": rows, "reward": np.full(2, t, np.float32)})
    return replay


@pytest.mark.parametrize("sampler", ["uniform", "prioritized", "quantum"])
def test_sequences_are_rows_in_order(sampler: str) -> None:
    sample = filled(sampler).sample(8)
    observation = sample.rows["observation"]  # (B, T + 1, 2)
    assert observation.shape == (8, 5, 2) and sample.weights.shape == (8,)
    assert (np.diff(observation[:, 1:, 0]) == 1).all()
    assert (observation[:, 1:, 1] == sample.starts.env[:, None]).all()
    assert (observation[:, 1, 0] == sample.starts.row).all()


def test_what_is_told_is_drawn_more_often() -> None:
    replay = filled("prioritized", alpha=1.0, bonus=0.0)
    for _ in range(30):
        starts = replay.sample(16).starts
        wanted = (starts.env == 1) & (starts.row == 3)
        replay.update(starts, np.where(wanted, 50.0, 0.01).astype(np.float32))
    drawn = replay.sample(64).starts
    assert np.mean((drawn.env == 1) & (drawn.row == 3)) > 0.3


def test_the_same_seed_draws_the_same() -> None:
    a, b, c = (filled("quantum", seed=seed).sample(16).starts for seed in (1, 1, 2))
    assert np.array_equal(a.row, b.row) and not np.array_equal(a.row, c.row)


def test_wrong_words() -> None:
    with pytest.raises(ValueError, match="did you mean quantum"):
        filled("quantun")
    with pytest.raises(ValueError, match=r"^capacity=2 leaves 1 rows"):
        qdreamer.Replay(FIELDS, capacity=2, length=4, num_envs=2)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"length": 1}, "^length=1 must be a whole number of at least 2"),
        ({"sampler": "foo"}, "^sampler=foo is not one of .*uniform"),
        ({"backend": "foo"}, "^backend=foo is not one of .*statevector"),
        ({"num_envs": 0}, "^num_envs=0 must be at least 1"),
        ({"alhpa": 1.0, "sampler": "prioritized"}, "^unknown key alhpa .did you mean alpha"),
    ],
)
def test_errors_call_arguments_by_their_names(words: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        qdreamer.Replay(FIELDS, **{"capacity": 64, "length": 4, **words})


def test_rows_that_are_not_of_the_fields() -> None:
    replay = qdreamer.Replay(FIELDS, capacity=64, length=4, num_envs=2)
    rows = {"observation": np.zeros((1, 2), np.float32), "reward": np.zeros(1, np.float32)}
    replay.add([0], {name: values.tolist() for name, values in rows.items()})
    assert replay.rows == 1
    wrong: list[tuple[Any, Any, str]] = [
        ([2], rows, "from 0 to 1: num_envs is 2"),
        ([-1], rows, "from 0 to 1"),
        (0, rows, "numbers of different environments"),
        ([0, 0], rows, "numbers of different environments"),
        ([0.5], rows, "numbers of different environments"),
        ([0], {"reward": rows["reward"]}, "one for each of observation, reward"),
        ([0], rows["reward"], "arrays by name"),
        ([0, 1], rows, r"rows of observation have the shape \(1, 2\), not \(2, 2\)"),
    ]
    for env, given, said in wrong:
        with pytest.raises(ValueError, match=said):
            replay.add(env, given)
    assert replay.rows == 1


@pytest.mark.parametrize("sampler", ["uniform", "prioritized", "quantum"])
@pytest.mark.parametrize(
    ("errors", "said"),
    [
        ([0.1, float("nan"), 0.2], r"^priorities\[1\]=nan must be a finite number of at least 0"),
        ([float("inf"), 0.1, 0.2], r"^priorities\[0\]=inf must"),
        ([0.1, 0.2, -1.0], r"^priorities\[2\]=-1 must"),
        ([0.1], "not 3 numbers, one for each start"),
        (["a", "b", "c"], "not 3 numbers"),
    ],
)
def test_priorities_that_are_none(sampler: str, errors: list[Any], said: str) -> None:
    replay = filled(sampler)
    with pytest.raises(ValueError, match=said):
        replay.update(replay.sample(3).starts, errors)
    replay.update(replay.sample(3).starts, [0, 1, 2])

"""The rows before a sequence, as memories begin with them, against lists of every row ever added."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from qdreamer.agents.replay.sampler import Starts
from qdreamer.agents.replay.storage import COLUMNS, Replay
from qdreamer.agents.replay.uniform import UniformSampler

ENVS, LENGTH = 2, 3
FIELDS = {
    "state": ((2,), np.float16), "stoch": ((3,), np.uint8), "action": ((1,), np.float32),
    "is_first": ((), np.bool_),
}  # fmt: skip


def filled(size, context, firsts):
    """A replay of rows whose contents are their numbers, and these rows in lists."""
    sampler = UniformSampler(ENVS, LENGTH, False, 0)
    replay = Replay(ENVS * size, ENVS, LENGTH, FIELDS, sampler, context=context)
    rows = [[] for _ in range(ENVS)]
    for row, first in enumerate(firsts):
        for env in range(ENVS):
            number = 10 * row + env
            rows[env].append((number, first))
            replay.add(
                np.array([env]),
                {
                    "state": np.full((1, 2), number), "stoch": np.full((1, 3), number % 251),
                    "action": np.full((1, 1), number), "is_first": np.array([first]),
                },
            )  # fmt: skip
    return replay, rows


@given(st.lists(st.booleans(), min_size=12, max_size=90), st.integers(8, 60), st.integers(1, 40), st.data())
def test_the_past_is_what_the_episode_held_before(firsts, size, context, data):
    replay, rows = filled(size, context, [True, *firsts])
    low, high = replay.eligible()
    env = np.array([0, 1, 1])
    row = np.array([data.draw(st.integers(int(low[e]), int(high[e]) - 1)) for e in env])
    past = replay._past(Starts(env, row))
    columns = past["known"].shape[1]
    assert columns <= context and (columns % COLUMNS == 0 or columns in (context, 1))
    needed = 0
    for b, (e, start) in enumerate(zip(env, row, strict=True)):
        oldest = max(0, len(rows[e]) - size)
        expected = []  # newest first
        for number in range(start - 1, max(start - 1 - context, -1), -1):
            value, first = rows[e][number]
            if number < oldest or (not first and number - 1 < oldest):
                break
            expected.append((value, 0 if first else rows[e][number - 1][0]))
            if first:
                break
        needed = max(needed, len(expected))
        known = past["known"][b]
        assert known.sum() == len(expected)
        assert known[columns - len(expected) :].all()
        for back, (value, action) in enumerate(expected, 1):
            assert (past["state"][b, -back] == value).all()
            assert (past["stoch"][b, -back] == value % 251).all()
            assert past["action"][b, -back] == action
    assert columns - needed < COLUMNS or columns == 1


def test_without_context_nothing_is_gathered():
    replay, _ = filled(20, 0, [True] * 15)
    assert replay.sample(4).past == {}
    assert replay.peek(4, np.random.default_rng(0)).past == {}

"""Priorities follow the ring and the learner; whatever is wrong is refused or has a known effect."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qdreamer.agents.replay.fitted import Boltzmann, Rank
from qdreamer.agents.replay.power import Power
from qdreamer.agents.replay.priorities import Priorities
from qdreamer.agents.replay.prioritized import PrioritizedSampler
from qdreamer.agents.replay.sampler import Eligible, Starts
from qdreamer.agents.replay.storage import Replay
from qdreamer.agents.replay.sum_tree import TreeDistribution

MANY = settings(max_examples=100)
FIELDS = {"value": ((), np.float32)}
TRANSFORMS = {
    "power": lambda: Power(1.0, 1e-3),
    "rank": lambda: Rank(1.0),
    "boltzmann": lambda: Boltzmann(1.0),
}


def make(envs=1, size=10, length=3, transform="power", floor=0.0, seed=0, **settings):
    priorities = Priorities(envs, size, TRANSFORMS[transform](), **settings)
    sampler = PrioritizedSampler(priorities, TreeDistribution(priorities.tree), (1.0, 1.0), 0, floor, seed)
    return Replay(envs * size, envs, length, FIELDS, sampler)


def add(replay, envs, value=0.0):
    replay.add(np.asarray(envs), {"value": np.full(len(envs), value, np.float32)})


def filled(rows, **settings):
    replay = make(**settings)
    for _ in range(rows):
        add(replay, range(settings.get("envs", 1)))
    return replay


def weight_of(replay):
    """Weights by (environment, row) of all starts that have one."""
    priorities = replay.sampler.priorities
    leaf = np.flatnonzero(priorities.tree.leaves)
    starts = priorities.starts(leaf)
    keys = zip(starts.env.tolist(), starts.row.tolist(), strict=True)
    return dict(zip(keys, priorities.tree.leaves[leaf].tolist(), strict=True))


def drawable(replay):
    eligible = replay.eligible()
    ranges = zip(eligible.low.tolist(), eligible.high.tolist(), strict=True)
    return {(e, row) for e, (low, high) in enumerate(ranges) for row in range(low, high)}


@MANY
@given(
    st.integers(1, 3),
    st.integers(2, 4),
    st.integers(0, 8),
    st.sampled_from(sorted(TRANSFORMS)),
    st.sampled_from([0.0, 0.3]),
    st.data(),
)
def test_exactly_the_drawable_starts_have_weight(envs, length, more, transform, floor, data):
    """However rows, draws and updates alternate, and however often the ring goes round."""
    replay = make(envs, length + 1 + more, length, transform, floor)
    pending = []
    for _ in range(data.draw(st.integers(1, 12))):
        subset = st.lists(st.integers(0, envs - 1), min_size=1, max_size=envs, unique=True)
        for chosen in data.draw(st.lists(subset, max_size=12)):
            add(replay, chosen)
        if not drawable(replay):
            continue
        sample = replay.sample(data.draw(st.integers(1, 5)))
        pairs = set(zip(sample.starts.env.tolist(), sample.starts.row.tolist(), strict=True))
        assert pairs <= drawable(replay)
        assert weight_of(replay).keys() == drawable(replay)
        pending.append(sample.starts)
        if data.draw(st.booleans()):  # an old batch's errors may come late, for rows long overwritten
            starts = pending.pop(0)
            replay.update(starts, np.ones(len(starts.row), np.float32))
            assert weight_of(replay).keys() == drawable(replay)


def test_new_starts_come_with_the_largest_error():
    replay = filled(6)
    replay.sample(1)
    starts = Starts(np.zeros(2, np.int64), np.array([0, 1]))
    replay.update(starts, np.array([4.0, 9.0], np.float32))
    # Those that were waiting for their first visit move up with the first errors.
    expected = {(0, 0): 4.001, (0, 1): 9.001, (0, 2): 9.001, (0, 3): 9.001}
    assert weight_of(replay) == pytest.approx(expected)
    add(replay, [0])
    replay.sample(1)
    assert weight_of(replay)[0, 4] == pytest.approx(9.001)


def test_the_largest_error_is_forgotten_slowly():
    replay = filled(6)
    replay.sample(1)
    one = Starts(np.zeros(1, np.int64), np.zeros(1, np.int64))
    replay.update(one, np.array([100.0], np.float32))
    for _ in range(1000):
        replay.update(one, np.array([1.0], np.float32))
    add(replay, [0])
    replay.sample(1)
    assert weight_of(replay)[0, 4] == pytest.approx(100.0 * 0.999**1000, rel=1e-3)


def test_errors_of_an_overwritten_start_do_not_reach_its_successor():
    replay = filled(10)
    starts = Starts(np.zeros(1, np.int64), np.zeros(1, np.int64))
    replay.sample(1)
    for _ in range(10):
        add(replay, [0])
    replay.sample(1)
    before = weight_of(replay)
    replay.update(starts, np.array([1000.0], np.float32))
    assert weight_of(replay) == before


def test_curious_weights():
    """c·β^v + (e + ε)^α (Kauvar et al. 2023)."""
    replay = filled(6, bonus=8.0, decay=0.5)
    replay.sample(1)
    starts = Starts(np.zeros(1, np.int64), np.zeros(1, np.int64))
    for visits in (1, 2, 3):
        replay.update(starts, np.array([2.0], np.float32))
        assert weight_of(replay)[0, 0] == pytest.approx(2.001 + 8.0 * 0.5**visits)
    assert weight_of(replay)[0, 1] == pytest.approx(2.001 + 8.0)


def test_ranks_are_those_of_the_buffer():
    replay = filled(10, transform="rank")
    replay.sample(1)
    rows = np.arange(8)
    errors = np.array([3.0, 8.0, 1.0, 6.0, 2.0, 5.0, 4.0, 7.0], np.float32)
    replay.update(Starts(np.zeros(8, np.int64), rows), errors)
    weights = weight_of(replay)
    expected = {(0, r): 1.0 / (1 + (errors > errors[r]).sum()) for r in rows}
    assert weights == pytest.approx(expected)


def test_importance_weights_and_their_exponent():
    priorities = Priorities(1, 4, Power(1.0, 1e-9))
    sampler = PrioritizedSampler(priorities, TreeDistribution(priorities.tree), (0.5, 1.0), 10, 0.0, 0)
    eligible = Eligible(np.zeros(1, np.int64), np.array([4]))
    sampler.draw(1, eligible)
    every = Starts(np.zeros(4, np.int64), np.arange(4))
    errors = np.array([1.0, 2.0, 3.0, 4.0], np.float32)
    for update in range(1, 13):
        sampler.update(every, errors)
        starts, weights = sampler.draw(50, eligible)
        beta = 0.5 + 0.5 * min(update / 10, 1.0)
        q = (errors / 10.0)[starts.row]
        np.testing.assert_allclose(weights, (1.0 / (4.0 * q)) ** beta, rtol=1e-6)


def test_metrics_of_known_draws():
    priorities = Priorities(1, 2, Power(1.0, 1e-9))
    sampler = PrioritizedSampler(priorities, TreeDistribution(priorities.tree), (1.0, 1.0), 0, 0.0, 0)
    eligible = Eligible(np.zeros(1, np.int64), np.array([2]))
    sampler.draw(1, eligible)
    sampler.update(Starts(np.zeros(2, np.int64), np.arange(2)), np.array([1.0, 3.0], np.float32))
    sampler.metrics()
    sampler.draw(100_000, eligible)
    metrics = sampler.metrics()
    entropy = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75)) / np.log(2)
    assert metrics["replay/entropy"] == pytest.approx(entropy, abs=0.01)
    assert metrics["replay/weight_mean"] == pytest.approx(1.0, abs=0.01)
    assert metrics["replay/weight_max"] == pytest.approx(2.0)
    # E[w²] = Σ 1/(4q) = 4/3.
    assert metrics["replay/effective_sample_size"] == pytest.approx(0.75, abs=0.01)
    assert "replay/entropy" not in sampler.metrics()
    histograms = sampler.histograms()
    assert sorted(histograms["replay/priority"]) == pytest.approx([1.0, 3.0])
    heavy = histograms["replay/weight"] > 1.0
    assert heavy.mean() == pytest.approx(0.25, abs=0.02)
    np.testing.assert_allclose(histograms["replay/weight"][1:][heavy[1:]], 2.0)


# The adversary


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (np.nan, FloatingPointError, "not finite"),
        (np.inf, FloatingPointError, "not finite"),
        (-np.inf, FloatingPointError, "not finite"),
        (-0.5, ValueError, "must not be negative, as -0.5 is"),
    ],
)
def test_impossible_priorities_are_refused_and_change_nothing(value, error, words):
    replay = filled(8)
    sample = replay.sample(2)
    before = weight_of(replay)
    with pytest.raises(error, match=words):
        replay.update(sample.starts, np.array([1.0, value], np.float32))
    assert weight_of(replay) == before


@pytest.mark.parametrize("transform", sorted(TRANSFORMS))
@pytest.mark.parametrize("value", [0.0, 3e38])
def test_equal_priorities_are_uniform_even_if_all_zero_or_huge(transform, value):
    replay = filled(8, transform=transform)
    replay.sample(1)
    rows = np.arange(6)
    replay.update(Starts(np.zeros(6, np.int64), rows), np.full(6, value, np.float32))
    weights = list(weight_of(replay).values())
    assert len(weights) == 6
    assert min(weights) == max(weights) > 0.0
    np.testing.assert_allclose(replay.sample(20).weights, 1.0)


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_no_sequence_yet(rows):
    with pytest.raises(RuntimeError, match="holds no sequence of 3 rows yet"):
        filled(rows).sample(1)


def test_a_batch_larger_than_the_buffer_repeats_sequences():
    sample = filled(4).sample(64)
    assert set(sample.starts.row.tolist()) == {0, 1}
    np.testing.assert_allclose(sample.weights, 1.0)


@given(st.sampled_from(sorted(TRANSFORMS)), st.integers(1, 2), st.integers(3, 40), st.integers(0, 99))
def test_state_round_trip(transform, envs, rows, seed):
    settings = {"transform": transform, "envs": envs, "bonus": 0.5, "decay": 0.9, "floor": 0.2}
    one, random = make(seed=seed, **settings), np.random.default_rng(seed)

    def go_on(replay, source, steps):
        seen = []
        for _ in range(steps):
            add(replay, range(envs))
            if replay.ready(1):
                sample = replay.sample(3)
                replay.update(sample.starts, source.random(3).astype(np.float32))
                seen.append((*sample.starts.env, *sample.starts.row, *sample.weights))
        return seen, replay.metrics()

    go_on(one, random, rows)
    buffer = io.BytesIO()
    torch.save(one.state_dict(), buffer)
    buffer.seek(0)
    other = make(seed=seed + 1, **settings)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert go_on(other, np.random.default_rng(1), 20) == go_on(one, np.random.default_rng(1), 20)


# Coverage


@MANY
@given(st.integers(1, 2), st.integers(2, 4), st.lists(st.integers(0, 4), max_size=40), st.integers(0, 9))
def test_coverage_is_the_share_of_stored_rows_that_were_replayed(envs, length, batches, more):
    replay = make(envs, length + 1 + more, length)
    seen = set()
    for added, batch in enumerate(batches, 1):
        add(replay, range(envs))
        if batch and replay.ready(1):
            starts = replay.sample(batch).starts
            for e, row in zip(starts.env.tolist(), starts.row.tolist(), strict=True):
                seen |= {(e, row + t) for t in range(length)}
        stored = {(e, r) for e in range(envs) for r in range(max(0, added - replay.size), added)}
        assert replay.metrics()["replay/coverage"] == pytest.approx(len(seen & stored) / len(stored))

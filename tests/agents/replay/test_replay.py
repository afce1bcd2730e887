"""The replay against a slow reference made of lists: every row ever added, by environment."""

import io
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qdreamer.agents.replay.sampler import Starts
from qdreamer.agents.replay.storage import Replay
from qdreamer.agents.replay.uniform import UniformSampler

LEVEL = 1e-4
MANY = settings(max_examples=200)
FIELDS = {"value": ((2,), np.float32), "flag": ((), np.bool_)}


class Case(NamedTuple):
    """A buffer's shape, and to which environments (a subset each time) rows are added."""

    envs: int
    size: int  # rows of each environment's ring
    length: int
    adds: list[list[int]]
    seed: int


@st.composite
def cases(draw):
    envs, length = draw(st.integers(1, 3)), draw(st.integers(2, 4))
    size = draw(st.integers(length + 1, 3 * length))
    subset = st.lists(st.integers(0, envs - 1), min_size=1, max_size=envs, unique=True)
    adds = draw(st.lists(subset, max_size=3 * size))
    return Case(envs, size, length, adds, draw(st.integers(0, 1000)))


def make(case, sampler=None, online=False):
    sampler = sampler or UniformSampler(case.envs, case.length, online, case.seed)
    # The remainder of a capacity that does not divide is left out.
    return Replay(case.envs * (case.size + 1) - 1, case.envs, case.length, FIELDS, sampler)


class Reference:
    """Lists of rows; whatever is still stored, is readable."""

    def __init__(self, case):
        self.case = case
        self.rows = [[] for _ in range(case.envs)]
        self.queued = [0] * case.envs  # sequences queued, per environment
        self.queue = []

    def add(self, replay, envs):
        """Add a row with contents of its own to each of the environments, here and there."""
        values = [(1000.0 * (e + 1) + len(self.rows[e]), 0.5) for e in envs]
        flags = [len(self.rows[e]) % 3 == 0 for e in envs]
        replay.add(np.array(envs), {"value": np.array(values, np.float32), "flag": np.array(flags)})
        for e, value, flag in zip(envs, values, flags, strict=True):
            self.rows[e].append({"value": value, "flag": flag})
            if len(self.rows[e]) == (self.queued[e] + 1) * self.case.length:
                self.queue.append((e, self.queued[e] * self.case.length))
                self.queued[e] += 1

    def stored(self, env, row):
        return len(self.rows[env]) - self.case.size <= row < len(self.rows[env]) and row >= 0

    def may_start(self, env, row):
        """All rows stored, and the row before, unless there never was one."""
        whole = all(self.stored(env, row + t) for t in range(self.case.length))
        return whole and (row == 0 or self.stored(env, row - 1))

    def starts(self):
        return {(e, r) for e, rows in enumerate(self.rows) for r in range(len(rows)) if self.may_start(e, r)}

    def take_fresh(self, count):
        """The next sequences of the online queue, without those overwritten meanwhile."""
        fresh = []
        while self.queue and len(fresh) < count:
            pair = self.queue.pop(0)
            if self.may_start(*pair):
                fresh.append(pair)
        return fresh

    def check(self, sample):
        """Row −1 and rows 0 … T − 1 of every sequence are the ones that were added."""
        for i, (env, row) in enumerate(pairs(sample.starts)):
            for t in range(-1, self.case.length):
                if row + t >= 0:
                    for name, values in sample.rows.items():
                        assert np.array_equal(values[i, t + 1], self.rows[env][row + t][name])


class Chosen:
    """A sampler that returns the starts it is told."""

    def __init__(self, starts):
        self.chosen = Starts(*np.array(sorted(starts), np.int64).T)

    def added(self, env, row):
        pass

    def draw(self, count, eligible):
        return self.chosen, np.ones(count, np.float32)


def pairs(starts):
    return list(zip(starts.env.tolist(), starts.row.tolist(), strict=True))


def filled(case, **kwargs):
    replay, reference = make(case, **kwargs), Reference(case)
    for envs in case.adds:
        reference.add(replay, envs)
    return replay, reference


def uneven(online=False):
    """Three environments with 17, 0 and 1 eligible starts."""
    adds = [[0]] * 50 + [[1]] * 3 + [[2]] * 4
    return filled(Case(3, 21, 4, adds, 0), online=online)


# Storage


@MANY
@given(cases())
def test_eligible_starts_are_exact(case):
    replay, reference = make(case), Reference(case)
    for envs in case.adds:
        reference.add(replay, envs)
        eligible, starts = replay.eligible(), reference.starts()
        ranges = zip(eligible.low.tolist(), eligible.high.tolist(), strict=True)
        assert {(e, r) for e, (low, high) in enumerate(ranges) for r in range(low, high)} == starts
        assert (eligible.high - eligible.low).sum() == len(starts)
        assert replay.rows == sum(min(len(rows), case.size) for rows in reference.rows)
        assert replay.ready(len(starts))
        assert not replay.ready(len(starts) + 1)


@MANY
@given(cases(), st.integers(1, 5))
def test_samples_are_consecutive_rows_of_one_environment(case, count):
    replay, reference = make(case), Reference(case)
    for envs in case.adds:
        reference.add(replay, envs)
        if starts := reference.starts():
            sample = replay.sample(count)
            assert set(pairs(sample.starts)) <= starts
            assert sample.rows["value"].shape == (count, case.length + 1, 2)
            assert np.array_equal(sample.weights, np.ones(count))
            reference.check(sample)


@MANY
@given(cases())
def test_every_eligible_sequence_reads_back(case):
    replay, reference = filled(case)
    if starts := reference.starts():
        replay.sampler = Chosen(starts)
        sample = replay.sample(len(starts))
        assert set(pairs(sample.starts)) == starts
        reference.check(sample)


@MANY
@given(cases(), st.integers(0, 10))
def test_write_touches_only_rows_still_stored(case, later):
    replay, reference = filled(case)
    if not (starts := reference.starts()):
        return
    starts = sorted(starts)[:: case.length]  # some of them
    sample_starts = Chosen(starts).chosen
    for _ in range(later):  # the buffer moves on before the update comes
        reference.add(replay, [0])
    new = -np.arange(1.0, 2 * len(starts) * case.length + 1).reshape(len(starts), case.length, 2)
    replay.write(sample_starts, {"value": new.astype(np.float32)})
    for (env, row), values in zip(starts, new, strict=True):
        for t in range(case.length):
            if reference.stored(env, row + t):
                reference.rows[env][row + t]["value"] = values[t]
    if readable := reference.starts():
        replay.sampler = Chosen(readable)
        reference.check(replay.sample(len(readable)))


@pytest.mark.parametrize("rows", [0, 1, 3])
@pytest.mark.parametrize("online", [False, True])
def test_no_sequence_yet(rows, online):
    replay, _ = filled(Case(2, 10, 4, [[0, 1]] * rows, 0), online=online)
    with pytest.raises(RuntimeError, match="holds no sequence of 4 rows yet"):
        replay.sample(1)


# Draws


def cell_counts(starts, eligible):
    """How often each eligible start was drawn."""
    counts = eligible.high - eligible.low
    first = np.cumsum(counts) - counts
    cell = first[starts.env] + starts.row - eligible.low[starts.env]
    return np.bincount(cell, minlength=counts.sum())


def test_draws_are_uniform(chi_square_p):
    replay, _ = uneven()
    eligible = replay.eligible()
    assert (eligible.high - eligible.low).tolist() == [17, 0, 1]
    starts, _ = replay.sampler.draw(200_000, eligible)
    assert chi_square_p(cell_counts(starts, eligible), np.ones(18)) > LEVEL
    # The same test notices when every second start is drawn 5 % less often.
    keep = (starts.row % 2 == 0) | (np.random.default_rng(0).random(200_000) > 0.05)
    distorted = Starts(starts.env[keep], starts.row[keep])
    assert chi_square_p(cell_counts(distorted, eligible), np.ones(18)) < LEVEL


@MANY
@given(cases(), st.lists(st.integers(1, 4), min_size=1, max_size=6))
def test_online_queue_returns_new_sequences_once_and_first(case, counts):
    replay, reference = make(case, online=True), Reference(case)
    seen = []
    for i, envs in enumerate(case.adds):
        reference.add(replay, envs)
        if i % 3 == 2 and reference.starts():
            count = counts[(i // 3) % len(counts)]
            fresh = reference.take_fresh(count)
            sample = replay.sample(count)
            assert pairs(sample.starts)[: len(fresh)] == fresh
            assert set(pairs(sample.starts)) <= reference.starts()
            reference.check(sample)
            seen += fresh
    assert len(set(seen)) == len(seen)
    assert all(row % case.length == 0 for _, row in seen)


def test_draws_are_uniform_once_the_queue_is_empty(chi_square_p):
    replay, reference = uneven(online=True)
    eligible = replay.eligible()
    fresh = reference.take_fresh(1000)
    # Rows 29 … 49 of environment 0 remain, so starts from 30 on; the first block of environment 2.
    assert fresh == [(0, 32), (0, 36), (0, 40), (0, 44), (2, 0)]
    starts, _ = replay.sampler.draw(5, eligible)
    assert pairs(starts) == fresh
    starts, _ = replay.sampler.draw(200_000, eligible)
    assert chi_square_p(cell_counts(starts, eligible), np.ones(18)) > LEVEL


@pytest.mark.parametrize("online", [False, True])
@MANY
@given(case=cases())
def test_state_dict_round_trip(online, case):
    replay, reference = filled(case, online=online)
    if reference.starts():
        replay.sample(2)
    buffer = io.BytesIO()
    torch.save(replay.state_dict(), buffer)
    buffer.seek(0)
    other = make(case._replace(seed=case.seed + 1), online=online)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    twin = Reference(case)
    twin.rows, twin.queued = [list(rows) for rows in reference.rows], list(reference.queued)
    assert other.rows == replay.rows
    for envs in case.adds:
        if reference.starts():
            ours, theirs = replay.sample(3), other.sample(3)
            assert pairs(ours.starts) == pairs(theirs.starts)
            for name in FIELDS:
                # Row −1 of an environment's first row is nobody's.
                known = (ours.starts.row[:, None] + np.arange(-1, case.length)) >= 0
                assert np.array_equal(ours.rows[name][known], theirs.rows[name][known])
            reference.check(theirs)
        reference.add(replay, envs)
        twin.add(other, envs)


@pytest.mark.parametrize("on_disk", [False, True])
@MANY
@given(case=cases())
def test_a_peek_finds_the_rows_and_leaves_no_trace(tmp_path_factory, on_disk, case):
    sampler = UniformSampler(case.envs, case.length, False, case.seed)
    mapped, folder = ["value"] if on_disk else [], tmp_path_factory.mktemp("mapped") / "replay" / "rank_0"
    replay = Replay(case.envs * case.size, case.envs, case.length, FIELDS, sampler, mapped, folder)
    reference = Reference(case)
    for envs in case.adds:
        reference.add(replay, envs)
    if reference.starts():
        before = sampler.state_dict(), replay.metrics()
        sample = replay.peek(20, np.random.default_rng(case.seed))
        assert set(pairs(sample.starts)) <= reference.starts()
        reference.check(sample)
        assert (sampler.state_dict(), replay.metrics()) == before

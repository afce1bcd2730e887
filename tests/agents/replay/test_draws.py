"""What is drawn follows the target, and weighted draws estimate the uniform mean without bias."""

from typing import NamedTuple

import numpy as np
import pytest

from qdreamer.agents.replay.pool import ShotPool
from qdreamer.agents.replay.power import Power
from qdreamer.agents.replay.priorities import Priorities
from qdreamer.agents.replay.prioritized import PrioritizedSampler
from qdreamer.agents.replay.sampler import Eligible, Starts
from qdreamer.agents.replay.sum_tree import TreeDistribution
from qdreamer.agents.replay.uniform import UniformSampler
from qdreamer.quantum.backends.factory import make_backend
from qdreamer.quantum.jobs.job_queue import JobQueue, Limits

DRAWS = 1_000_000
SHOTS = 200_000  # of circuits; all holds with a million too, which takes five times as long
FAMILY = 1e-4  # chance that any of the tests of one family fails though all is well
STANDARD_ERRORS = 4.0


class Sampled(NamedTuple):
    sampler: PrioritizedSampler
    eligible: Eligible

    def draw(self, count):
        starts, weights = self.sampler.draw(count, self.eligible)
        return starts.row, weights


def prioritized(weights, floor=0.0, proposal=None, stratified=False):
    """A sampler over one environment whose starts have these weights, 0 included."""
    priorities = Priorities(1, len(weights), Power(1.0, 1e-9))
    eligible = Eligible(np.zeros(1, np.int64), np.array([len(weights)]))
    priorities.sync(eligible)
    priorities.tree.set(np.arange(len(weights)), np.asarray(weights, np.float64))
    made = TreeDistribution(priorities.tree, stratified) if proposal is None else proposal(priorities.tree)
    return Sampled(PrioritizedSampler(priorities, made, (1.0, 1.0), 0, floor, seed=0), eligible)


def vectors():
    """20 weight vectors of 7 to 100,000: smooth, skewed, with zeros, ties, one giant."""
    random = np.random.default_rng(0)
    sizes = [7, 8, 13, 31, 64, 100, 257, 1000, 1023, 1024, 1025, 3000, 4096, 5000, 10_000]
    sizes += [16_384, 33_333, 50_000, 65_537, 100_000]
    out = []
    for i, n in enumerate(sizes):
        weights = random.random(n) + 1e-3
        kind = i % 5
        if kind == 1:
            weights **= 8  # skewed over many orders of magnitude
        if kind == 2:
            weights[random.random(n) < 0.5] = 0.0
            weights[0] = 0.0
        if kind == 3:
            weights = random.integers(1, 4, n).astype(np.float64)  # ties
        if kind == 4:
            weights[random.integers(n)] = 1000.0 * n  # a giant
        out.append(weights)
    return out


def merged(counts, probs, least=10.0):
    """Neighbouring bins joined until `least` draws are expected in each."""
    expected = probs * counts.sum()
    bins, begin, sums = [], 0, 0.0
    for i, e in enumerate(expected.tolist()):
        sums += e
        if sums >= least:
            bins.append(begin)
            begin, sums = i + 1, 0.0
    # What is left over joins the last bin.
    return np.add.reduceat(counts, bins), np.add.reduceat(probs, bins)


def coarse(counts, probs):
    """At most 32 bins: 16 stretches, odd and even leaves apart, where a small bias adds up."""
    leaf = np.arange(len(counts))
    group = leaf * 16 // len(counts) * 2 + leaf % 2
    return (np.bincount(group, c, minlength=32) for c in (counts, probs))


def smallest_p(counts, weights, chi_square_p):
    """Of the fine and the coarse test. Leaves without weight must never be drawn."""
    probs = weights / weights.sum()
    assert not counts[probs == 0.0].any()
    out = []
    for test in (lambda c, p: (c, p), coarse):
        c, p = test(counts, probs)
        c, p = merged(c, p)
        out.append(chi_square_p(c, p) if len(c) > 1 else 1.0)
    return min(out)


def counted(rows, weights):
    return np.bincount(rows, minlength=len(weights))


def uniform_rows(weights):
    sampler = UniformSampler(1, 1, online=False, seed=0)
    starts, _ = sampler.draw(DRAWS, Eligible(np.zeros(1, np.int64), np.array([len(weights)])))
    return starts.row, np.ones(len(weights))


def prioritized_rows(weights):
    return prioritized(weights).draw(DRAWS)[0], weights


def quantum_rows(weights):
    target = 0.9 * weights / weights.sum() + 0.1 / len(weights)
    return prioritized(weights, floor=0.1).draw(DRAWS)[0], target


@pytest.mark.parametrize("draw", [uniform_rows, prioritized_rows, quantum_rows])
def test_a_million_draws_follow_the_target_and_a_distortion_of_five_percent_is_noticed(draw, chi_square_p):
    """Distorted: half of the leaves, every second one or those in front, are drawn 5 % less often."""
    cases = vectors()
    level = FAMILY / (2 * len(cases) * 3)
    random = np.random.default_rng(1)
    noticed = 0
    for i, weights in enumerate(cases):
        rows, target = draw(weights)
        assert smallest_p(counted(rows, target), target, chi_square_p) > level
        if i % 5 == 4 and draw is not uniform_rows:
            continue  # a giant takes nearly all draws: 5 % of the rest is less than chance
        leaf = np.arange(len(target))
        for half in (leaf % 2 == 1, leaf < len(target) // 2):
            if 0.1 < target[half].sum() / target.sum() < 0.9:
                kept = rows[~half[rows] | (random.random(DRAWS) > 0.05)]
                assert smallest_p(counted(kept, target), target, chi_square_p) < level
                noticed += 1
    assert noticed >= 30


def test_stratified_draws_follow_the_target_with_less_variance():
    weights = np.random.default_rng(0).random(100)
    made = prioritized(weights, stratified=True)
    counts = np.zeros((300, 100))
    for row in counts:
        row += np.bincount(made.draw(1000)[0], minlength=100)
    expected = 1000 * weights / weights.sum()
    assert np.abs(counts.mean(0) - expected).max() < 4.0 * (0.5 / 300) ** 0.5
    # Only the two parts at its ends can miss a leaf: the variance is at most 2·¼, not about `expected`.
    assert counts.var(0).max() < 0.6


# Circuits


@pytest.fixture(scope="session")
def pools(make_config):
    """`pools(qubits, shots, name)` → a maker of proposals that wait for their jobs."""
    backends = {}

    def make(qubits, shots, name="aer", *settings):
        key = (name, *settings)
        if key not in backends:
            config = make_config("replay=quantum", f"quantum={name}", *settings).quantum
            backends[key] = make_backend(config)
        queue = JobQueue(backends[key], Limits(60.0), pytest.fail)
        return lambda tree: ShotPool(tree, qubits, shots, 1e9, queue, seed=0, wait=True)

    return make


@pytest.mark.parametrize("n", range(3, 11))
def test_measured_blocks_follow_the_target(n, pools, chi_square_p):
    random = np.random.default_rng(n)
    weights = random.random(3 * 2**n + 5) ** 3
    weights[random.random(len(weights)) < 0.2] = 0.0
    weights[: len(weights) // 2**n] = 0.0
    made = prioritized(weights, proposal=pools(n, SHOTS))
    made.draw(1)
    pool = made.sampler.proposal
    counts = np.round(pool.frequencies * SHOTS).astype(np.int64)
    assert counts.sum() == SHOTS
    level = FAMILY / (2 * 8)
    assert smallest_p(counts, pool.target(), chi_square_p) > level
    odd = np.arange(2**n) % 2 == 1  # are now measured 5 % less often
    counts[odd] = np.random.default_rng(n).binomial(counts[odd], 0.95)
    assert smallest_p(counts, pool.target(), chi_square_p) < level


def test_draws_from_a_pool_follow_what_it_says(pools, chi_square_p):
    weights = np.random.default_rng(0).random(700) ** 2
    made = prioritized(weights, floor=0.1, proposal=pools(4, 2000))
    rows, drawn = made.draw(DRAWS)
    pool = made.sampler.proposal
    q = 0.9 * pool.probability(np.arange(700)) + 0.1 / 700
    assert q.sum() == pytest.approx(1.0, abs=1e-12)
    counts = counted(rows, weights)
    assert smallest_p(counts, q, chi_square_p) > FAMILY / 2
    assert smallest_p(counts, weights, chi_square_p) < FAMILY / 2  # 2,000 shots are not the target itself
    np.testing.assert_allclose(drawn, 1.0 / (700 * q[rows]), rtol=1e-6)


# Weighted estimates


def deviates(values, truth):
    """How many standard errors the mean of draws lies from the truth."""
    return abs(values.mean() - truth) / (values.std() / len(values) ** 0.5)


def skewed(size=1500):
    random = np.random.default_rng(5)
    place = np.linspace(0.0, 1.0, size)
    weights = random.random(size) ** 6 * np.exp(-3.0 * place) + 1e-3
    x = weights**0.5 + place  # depends on the weight and on the place
    return weights, x


@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_weighted_means_are_unbiased(floor):
    weights, x = skewed()
    rows, w = prioritized(weights, floor).draw(400_000)
    assert deviates(w * x[rows], x.mean()) < STANDARD_ERRORS
    assert deviates(x[rows], x.mean()) > STANDARD_ERRORS


def check_pool(made, current, x):
    """Unbiased by the weights given, biased by those of the current target."""
    rows, w = made.draw(400_000)
    assert deviates(w * x[rows], x.mean()) < STANDARD_ERRORS
    uncorrected = 1.0 / (len(x) * (0.9 * current / current.sum() + 0.1 / len(x)))
    assert deviates(uncorrected[rows] * x[rows], x.mean()) > STANDARD_ERRORS


def test_weighted_means_are_unbiased_from_a_stale_pool(pools):
    weights, x = skewed()
    made = prioritized(weights, 0.1, pools(4, 5000))
    made.draw(10)
    later = weights[::-1].copy()  # what was heavy is light now
    tree = made.sampler.priorities.tree
    tree.set(np.arange(len(later)), later)
    check_pool(made, later, x)


def test_weighted_means_are_unbiased_on_a_noisy_device(pools):
    weights, x = skewed(2048)
    made = prioritized(weights, 0.1, pools(4, 50_000, "aer_noisy", "quantum.device=FakeManilaV2"))
    check_pool(made, weights, x)
    metrics = made.sampler.proposal.metrics()
    assert 0.01 < metrics["pool/distance"] < 0.5  # the device is noisy indeed


def test_without_a_floor_unmeasured_blocks_are_out_of_reach_with_it_they_are_not(pools):
    weights = np.full(64, 1e-6)
    weights[:4] = 1.0
    for floor, reached in ((1e-3, True), (0.0, False)):
        rows, _ = prioritized(weights, floor, pools(4, 100)).draw(100_000)
        assert bool((rows >= 4).any()) == reached


def test_updates_reach_the_draws(chi_square_p):
    made = prioritized(np.ones(50), 0.0)
    rows = np.arange(50)
    errors = np.random.default_rng(0).random(50).astype(np.float32)
    made.sampler.update(Starts(np.zeros(50, np.int64), rows), errors)
    drawn, _ = made.draw(200_000)
    assert chi_square_p(np.bincount(drawn, minlength=50), errors + 1e-9) > FAMILY

"""Weights from errors and visits: golden values and order."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdreamer.agents.replay.fitted import Boltzmann, Rank
from qdreamer.agents.replay.power import Power
from qdreamer.agents.replay.rotation import Rotation
from qdreamer.agents.replay.transforms import Seen

SEEN = Seen(1000, 4.0, 10)
NONE = np.zeros(4)
ERRORS = st.lists(st.floats(0.0, 1e6), min_size=2, max_size=30)


def test_power():
    weights = Power(0.5, 0.25)(np.array([0.0, 0.75, 3.75, 15.75]), NONE, SEEN)
    np.testing.assert_allclose(weights, [0.5, 1.0, 2.0, 4.0])


def test_rank_is_that_among_the_fitted_and_ties_share_it():
    rank = Rank(1.0)
    rank.fit(np.array([5.0, 1.0, 3.0, 3.0]))
    weights = rank(np.array([5.0, 3.0, 1.0, 0.0]), NONE, SEEN)
    np.testing.assert_allclose(weights, [1.0, 1 / 2, 1 / 4, 1 / 5])


def test_ranks_among_quantiles_are_close_to_the_exact_ones(monkeypatch):
    errors = np.random.default_rng(0).random(20_000)
    exact, kept = Rank(0.7), Rank(0.7)
    exact.fit(errors)
    monkeypatch.setattr("qdreamer.agents.replay.fitted.QUANTILES", 2000)
    kept.fit(errors)
    order = errors.argsort()[:-200]  # but for the first few, which share a quantile
    none = np.zeros(len(order))
    ratio = kept(errors[order], none, SEEN) / exact(errors[order], none, SEEN)
    assert np.abs(ratio - 1.0).max() < 0.06


def test_boltzmann():
    boltzmann = Boltzmann(2.0)
    boltzmann.fit(np.array([1.0, 3.0]))  # mean 2, deviation 1
    weights = boltzmann(np.array([2.0, 4.0, 0.0, 1e9]), NONE, SEEN)
    np.testing.assert_allclose(weights, [1.0, math.e, 1 / math.e, math.exp(20)])


def test_boltzmann_of_equal_errors_is_uniform():
    boltzmann = Boltzmann(1.0)
    boltzmann.fit(np.full(5, 7.0))
    assert (boltzmann(np.full(5, 7.0), np.zeros(5), SEEN) == 1.0).all()


def test_rotation_golden_values():
    """Late in training with ζ₁ = 2π/50, τ₁ = 2: σ = π/50, ω = 0.1, so m = ⌊100·e/4 − 12.5⌋."""
    rotation = Rotation((math.pi / 25, 0.0), (2.0, 0.0), 0.0)
    weights = rotation(np.array([0.0, 0.52, 0.8, 0.8]), np.array([0, 0, 0, 3]), SEEN)
    # m = −13 (the angle ends at 0), 0, 7, and 7 less three visits.
    angle = math.pi / 4 + 7 * math.pi / 50
    expected = [0.0, 0.5, math.sin(angle) ** 2, math.sin(angle - 0.3) ** 2]
    np.testing.assert_allclose(weights, expected, atol=1e-12)


@given(ERRORS, st.integers(0, 10_000))
def test_larger_errors_never_weigh_less(errors, updates):
    errors = np.sort(errors)
    seen = Seen(updates, errors[-1], 5)
    rank, boltzmann = Rank(0.6), Boltzmann(0.5)
    rank.fit(errors)
    boltzmann.fit(errors)
    for transform in (Power(0.6, 1e-2), rank, boltzmann, Rotation((0.03, 500), (0.8, 500), 1e-2)):
        weights = transform(errors, np.full(len(errors), 2), seen)
        assert np.isfinite(weights).all()
        assert (weights > 0).all()
        assert (np.diff(weights) >= 0).all()


@given(st.floats(0.0, 1.0), st.integers(1, 10_000))
def test_more_visits_never_weigh_more_in_a_rotation(error, updates):
    visits = np.arange(20)
    weights = Rotation((0.03, 500.0), (0.8, 500.0), 1e-2)(np.full(20, error), visits, Seen(updates, 1.0, 19))
    assert (np.diff(weights) <= 0).all()


@pytest.mark.parametrize("make", [lambda: Rank(0.6), lambda: Boltzmann(0.5)])
def test_state_round_trip(make):
    errors = np.random.default_rng(0).random(50)
    one, other = make(), make()
    one.fit(errors)
    other.load_state_dict(one.state_dict())
    assert np.array_equal(one(errors, np.zeros(50), SEEN), other(errors, np.zeros(50), SEEN))

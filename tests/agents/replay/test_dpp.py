"""k-determinantal processes: the exact sampler and its probabilities."""

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import chisquare

from qdreamer.agents.replay.diversity import dpp
from qdreamer.agents.replay.diversity.features import kernel as kernel_of


def features(count, width=3, seed=0):
    return np.random.default_rng(seed).normal(size=(count, width))


def enumerated(kernel, k):
    """All subsets, and their probabilities."""
    subsets = list(combinations(range(len(kernel)), k))
    weights = np.array([np.linalg.det(kernel[np.ix_(s, s)]) for s in subsets])
    return subsets, weights / weights.sum()


@pytest.mark.parametrize(("count", "k"), [(6, 1), (6, 3), (7, 2), (5, 5)])
def test_samples_have_the_probability_of_the_determinant(count, k):
    kernel, random = kernel_of(features(count)), np.random.default_rng(1)
    subsets, p = enumerated(kernel, k)
    number = {subset: i for i, subset in enumerate(subsets)}
    spectrum = dpp.decompose(kernel, k)
    seen = np.zeros(len(subsets))
    for _ in range(4000):
        subset = dpp.sample(dpp.choose_vectors(spectrum, k, random), random)
        seen[number[tuple(sorted(subset.tolist()))]] += 1
    many = p * 4000 > 5
    observed, expected = np.append(seen[many], seen[~many].sum()), np.append(p[many], p[~many].sum()) * 4000
    if len(observed) > 2:
        assert chisquare(observed[expected > 0], expected[expected > 0]).pvalue > 1e-4


@pytest.mark.parametrize(("count", "k"), [(6, 3), (7, 2), (8, 4)])
def test_probabilities_of_inclusion_are_exact(count, k):
    kernel = kernel_of(features(count, seed=2))
    subsets, p = enumerated(kernel, k)
    expected = np.array([sum(q for s, q in zip(subsets, p, strict=True) if i in s) for i in range(count)])
    found = dpp.inclusion(dpp.decompose(kernel, k))
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert found.sum() == pytest.approx(k)


def test_weighted_sums_are_unbiased_exactly():
    """Σ_{i in S} x_i/π_i has the mean Σ x_i over all S, whatever x is."""
    kernel, x = kernel_of(features(6)), np.array([3.0, -1.0, 0.5, 10.0, -7.0, 2.0])
    subsets, p = enumerated(kernel, 3)
    pi = dpp.inclusion(dpp.decompose(kernel, 3))
    mean = sum(q * (x[list(s)] / pi[list(s)]).sum() for s, q in zip(subsets, p, strict=True))
    assert mean == pytest.approx(x.sum(), rel=1e-9)


def test_copies_are_hardly_ever_taken_together():
    x = features(6)
    x[1] = x[0]
    spectrum, random = dpp.decompose(kernel_of(x), 3), np.random.default_rng(0)
    both = 0
    for _ in range(2000):
        both += {0, 1} <= set(dpp.sample(dpp.choose_vectors(spectrum, 3, random), random).tolist())
    assert both <= 2  # of 2,000; of independent draws it were 400


def test_many_candidates_stay_finite():
    spectrum = dpp.decompose(kernel_of(features(256, 40)), 64)
    pi = dpp.inclusion(spectrum)
    assert np.isfinite(pi).all() and pi.min() > 0.0 and pi.max() <= 1.0 + 1e-9
    subset = dpp.sample(dpp.choose_vectors(spectrum, 64, np.random.default_rng(0)), np.random.default_rng(1))
    assert len(set(subset.tolist())) == 64

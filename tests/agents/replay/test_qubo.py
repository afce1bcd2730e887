"""Batches by quadratic binary optimization."""

from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

import qdreamer
from qdreamer.agents.cli.effect import unread
from qdreamer.agents.replay.config import make_selection
from qdreamer.agents.replay.diversity.features import likeness
from qdreamer.agents.replay.diversity.qubo import pose
from qdreamer.configs.schema import ConfigError
from qdreamer.quantum.qaoa.subsets import SUBSET_SOLVERS
from tests.every_key import composed

SOLVERS = ["xy", "penalty", "exact", "greedy", "annealing", "random"]
QUBO = ("replay=prioritized", "replay.diverse=qubo")


@pytest.fixture
def make(make_config):
    def selection(seed=0, **settings):
        words = (f"replay.qubo.{key}={value}" for key, value in settings.items())
        return make_selection(make_config(*QUBO, *words).replay, seed)

    return selection


def candidates(count, kinds=5, seed=0):
    """Latents (M, T, S), all of them known, and importance weights (M,)."""
    random = np.random.default_rng(seed)
    stoch = random.integers(4, size=(kinds, 3, 2))[random.integers(kinds, size=count)].astype(np.uint8)
    return stoch, np.ones(count, np.bool_), random.uniform(0.2, 3.0, count).astype(np.float32)


def problems(n, k, groups):
    stoch, known, weights = candidates(n * groups)
    rows = np.arange(n * groups).reshape(groups, n)
    return pose(1.0 / weights[rows], likeness(stoch, known)[rows[:, :, None], rows[:, None]], 1.0, k)


def test_the_objective_is_priority_minus_likeness():
    posed = problems(6, 3, 1)
    q = posed.quadratic[0]
    for subset, energy in zip(posed.subsets.bits, posed.energies[0].tolist(), strict=True):
        members = np.flatnonzero(subset.numpy())
        alike = sum(2 * float(q[i, j]) for i, j in combinations(members, 2))
        assert energy == pytest.approx(alike + float(q.diagonal()[members].sum()))
    assert (q.diagonal() < 0).all()


def test_the_registered_solvers_are_tested():
    assert SUBSET_SOLVERS.names() == sorted(SOLVERS)


@pytest.mark.parametrize("solver", SOLVERS)
def test_weighted_sums_are_unbiased_exactly(make, solver):
    """Over all subsets of a group, the mean of factor·x of those that are taken is the mean of x."""
    posed, floor = problems(9, 3, 4), 0.1
    _, factors = make(solver=solver, floor=floor)._take(posed)
    solve = SUBSET_SOLVERS[solver].part.make(make_like(layers=3)).probabilities(posed)
    p = ((1 - floor) * solve + floor / len(posed.subsets)).numpy()  # (G, N)
    x = np.random.default_rng(1).normal(size=(4, 9))
    mean = ((factors * x) @ posed.subsets.bits.numpy().T * p).sum(1) / posed.k
    np.testing.assert_allclose(mean, x.mean(1), rtol=1e-9)
    assert factors.max() <= 1.0 / floor + 1e-9


def make_like(**settings):
    return type("Settings", (), settings)


@pytest.mark.parametrize("solver", ["exact", "greedy"])
def test_without_a_floor_the_same_are_always_taken_and_weigh_alike(make, solver):
    stoch, known, weights = candidates(24)
    selection = make(solver=solver, floor=0.0)
    (taken, factors), (again, _) = (selection.select(stoch, known, weights, 8) for _ in range(2))
    assert np.array_equal(taken, again)
    assert factors == pytest.approx(np.ones(8))


def test_subsets_are_drawn_with_the_probabilities_that_weights_assume(make):
    posed = problems(6, 2, 1)
    many = type(posed)(posed.quadratic.expand(4000, -1, -1), posed.k)
    chosen, _ = make(floor=0.2)._take(many)
    number = posed.subsets.number(torch.from_numpy(chosen).to(torch.uint8))
    xy = SUBSET_SOLVERS["xy"].part.make(make_like(layers=3)).probabilities(posed)[0].numpy()
    expected = 4000 * (0.8 * xy + 0.2 / 15)
    assert chisquare(np.bincount(number, minlength=15), expected * 4000 / expected.sum()).pvalue > 1e-4


@pytest.mark.parametrize("count", [1, 3, 4, 10, 16])
def test_every_group_keeps_its_share(make, count):
    """Of 12 candidates 4; what is left of a batch is a smaller group."""
    stoch, known, weights = candidates(3 * count)
    taken, factors = make().select(stoch, known, weights, count)
    assert len(set(taken.tolist())) == len(factors) == count
    groups = np.bincount(taken // 12, minlength=-(-count // 4))
    assert groups.tolist() == [4] * (count // 4) + [count % 4] * (count % 4 > 0)
    assert np.isfinite(factors).all() and (factors > 0.0).all()


def test_priorities_and_likeness_are_what_counts(make):
    stoch, known, weights = candidates(12)
    taken, _ = make(solver="exact", similarity=0.0, floor=0.0).select(stoch, known, weights, 4)
    assert set(taken) == set(np.argsort(weights)[:4])
    stoch = np.zeros((12, 3, 2), np.uint8)
    stoch[[2, 5, 7]] = np.array([1, 2, 3])[:, None, None]
    taken, _ = make(solver="exact", floor=0.0).select(stoch, known, np.ones(12, np.float32), 4)
    assert {2, 5, 7} < set(taken)
    # Copies that nobody has seen are no copies.
    taken, _ = make(solver="exact", floor=0.0).select(np.zeros_like(stoch), np.arange(12) < 8, weights, 4)
    assert (taken >= 8).sum() >= 3


def test_draws_go_on_from_a_checkpoint():
    def buffer():
        fields = {"x": ((), np.float32), "stoch": ((2,), np.uint8)}
        settings = {"online": False, "diverse": "qubo", "qubo.layers": 1}
        replay = qdreamer.Replay(fields, 100, 2, seed=3, **settings)
        for i in range(60):
            replay.add([0], {"x": [float(i)], "stoch": [[i % 4, i % 3]]})
        return replay

    first, second = buffer(), buffer()
    first.sample(8)
    second.load_state_dict(first.state_dict())
    for _ in range(3):
        expected, found = first.sample(8), second.sample(8)
        assert np.array_equal(found.starts.row, expected.starts.row)
        assert np.array_equal(found.weights, expected.weights)


def test_what_cannot_be_is_refused(make_config):
    with pytest.raises(ConfigError, match=r"replay\.candidates=5 for replay\.qubo\.keep=4 are 20 candidates"):
        make_config(*QUBO, "replay.candidates=5")
    with pytest.raises(ConfigError, match=r"replay\.qubo\.solver=anealing .* \(did you mean annealing\?\)"):
        make_config(*QUBO, "replay.qubo.solver=anealing")
    with pytest.raises(ConfigError, match=r"replay\.qubo\.layers"):
        make_config(*QUBO, "replay.qubo.layers=4")


@pytest.mark.parametrize(
    "words", [("replay.diverse=qubo", "replay.qubo.solver=exact"), ("replay.diverse=dpp",)]
)
def test_settings_without_effect_are_refused(words):
    found = unread(*composed(["agent=classical", "replay=prioritized", *words, "replay.qubo.layers=2"]))
    assert [override.key_or_group for override in found] == ["replay.qubo.layers"]

"""The sum tree against plain NumPy, and as the circuit's rotation tree."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qdreamer.agents.replay.sum_tree import SumTree
from qdreamer.quantum.circuits.circuit import statevector
from qdreamer.quantum.circuits.grover_rudolph import (
    descend,
    loading_circuit,
    loading_values,
    sum_tree,
    tree_angles,
)

MANY = settings(max_examples=200)
WEIGHTS = st.one_of(st.just(0.0), st.floats(1e-12, 1e12), st.sampled_from([1e-12, 1.0, 1e12]))


def filled(weights):
    tree = SumTree(len(weights))
    tree.set(np.arange(len(weights)), np.asarray(weights, np.float64))
    return tree


@MANY
@given(st.integers(1, 70), st.lists(st.integers(1, 140), min_size=1, max_size=5), st.integers(0, 2**32))
def test_every_node_is_the_sum_of_its_children_after_any_updates(size, counts, seed):
    tree, reference, random = SumTree(size), np.zeros(size), np.random.default_rng(seed)
    for count in counts:
        leaf = random.integers(size, size=count)
        weight = 10.0 ** random.uniform(-12, 12, count) * (random.random(count) > 0.3)
        tree.set(leaf, weight)
        for i, w in zip(leaf, weight, strict=True):  # the last one counts
            reference[i] = w
        assert np.array_equal(tree.leaves, reference)
        for level, below in zip(tree.levels, tree.levels[1:], strict=False):
            assert np.array_equal(level[: len(below) // 2], below[0::2] + below[1::2])
            assert not level[len(below) // 2 :].any()
    assert tree.total == pytest.approx(reference.sum(), rel=1e-12)


def test_single_updates_deep_in_a_large_tree():
    random = np.random.default_rng(0)
    size = 100_003
    tree = filled(random.random(size))
    reference = tree.leaves.copy()
    for _ in range(20):
        leaf, weight = random.integers(size, size=50), random.random(50)
        tree.set(leaf, weight)
        for i, w in zip(leaf, weight, strict=True):
            reference[i] = w
    again = filled(reference)
    assert all(np.array_equal(a, b) for a, b in zip(tree.levels, again.levels, strict=True))


@MANY
@given(st.lists(WEIGHTS, min_size=1, max_size=60).filter(any), st.integers(0, 2**32))
def test_values_fall_where_the_weights_laid_end_to_end_say(weights, seed):
    tree = filled(weights)
    ends = np.cumsum(weights)
    value = np.random.default_rng(seed).random(200) * tree.total
    leaf = tree.find(value)
    assert (np.asarray(weights)[leaf] > 0).all()
    # Sums in another order differ by rounding only.
    slack = 1e-12 * tree.total
    assert (value < ends[leaf] + slack).all()
    assert (value >= (ends - weights)[leaf] - slack).all()


@MANY
@given(st.lists(WEIGHTS, min_size=1, max_size=60).filter(any))
def test_the_ends_of_the_range_find_leaves_with_weight(weights):
    tree = filled(weights)
    value = np.array([0.0, np.nextafter(tree.total, 0.0), tree.total])
    leaf = tree.find(value)
    positive = np.flatnonzero(weights)
    assert leaf[0] == positive[0]
    assert (np.asarray(weights)[leaf] > 0).all()


def test_nothing_to_draw():
    with pytest.raises(ValueError, match="all weights are 0"):
        SumTree(5).find(np.zeros(1))


@pytest.mark.parametrize("n", range(3, 11))
def test_the_tree_is_the_rotation_tree_of_the_circuit(n):
    random = np.random.default_rng(n)
    weights = random.random(2**n) ** 4
    weights[random.random(2**n) < 0.3] = 0.0
    tree = filled(weights)
    levels = sum_tree(torch.from_numpy(weights).unsqueeze(0))
    assert all(np.array_equal(a, b[0].numpy()) for a, b in zip(tree.levels, levels, strict=True))
    psi = statevector(loading_circuit(n), loading_values(tree_angles(levels)))[0]
    root = np.sqrt(weights / weights.sum())
    assert np.abs(psi.numpy() - root).max() < 1e-6


def test_one_random_number_makes_the_same_coins_as_one_for_each_qubit(chi_square_p):
    random = np.random.default_rng(0)
    weights = random.random(37) ** 3
    tree, draws = filled(weights), 200_000
    ours = np.bincount(tree.find(random.random(draws) * tree.total), minlength=37)
    levels = sum_tree(torch.from_numpy(np.pad(weights, (0, 27))).unsqueeze(0))
    theirs = descend(levels, draws, torch.Generator().manual_seed(0))[0].numpy()
    assert chi_square_p(ours, weights) > 1e-4
    assert chi_square_p(np.bincount(theirs, minlength=37), weights) > 1e-4


@pytest.mark.parametrize("level", [1, 2, 3])
def test_descending_from_a_node_draws_within_it(level, chi_square_p):
    random = np.random.default_rng(level)
    weights = random.random(50) + 0.01
    tree = filled(weights)
    node = np.full(50_000, 1)
    leaf = tree.descend(node, random.random(50_000) * tree.levels[level][1], level)
    width = 2 ** (tree.depth - level)
    inside = weights[width : 2 * width]
    assert set((leaf // width).tolist()) == {1}
    assert chi_square_p(np.bincount(leaf - width, minlength=len(inside)), inside) > 1e-4

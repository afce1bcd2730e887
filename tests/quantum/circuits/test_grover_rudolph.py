"""Amplitude loading: tree and circuit are the same thing."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qdreamer.quantum.backends.statevector import probabilities
from qdreamer.quantum.circuits.circuit import statevector
from qdreamer.quantum.circuits.grover_rudolph import (
    AmplitudeTask,
    descend,
    loading_circuit,
    loading_values,
    signed_angles,
    sum_tree,
    tree_angles,
)
from qdreamer.quantum.circuits.sampling import draw

LEVEL = 1e-4 / 20  # of each of this file's tests of draws


def weights(n, seed, rows=2):
    """Skewed weights with ties, zeros, a giant, and a row whose left half is empty."""
    w = torch.rand(rows, 2**n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) ** 3
    w[0, 0] = 1000.0
    w[0, -1] = w[0, -2]
    w[1, : 2 ** (n - 1)] = 0.0
    return w


@pytest.mark.parametrize("n", range(1, 13))
def test_state_equals_the_root_of_the_probabilities(n):
    w = weights(n, n)
    task = AmplitudeTask(w)
    state = statevector(task.circuit(), task.values())
    expected = (w / w.sum(1, keepdim=True)).sqrt()
    torch.testing.assert_close(state, expected.to(state.dtype), rtol=0, atol=1e-12)
    assert task.circuit().two_qubit_gates == 2**n - 2
    torch.testing.assert_close(probabilities(task), expected**2)


def test_angles_golden():
    levels = sum_tree(torch.tensor([[1.0, 3.0, 0.0, 4.0]]))
    assert [level.tolist() for level in levels] == [[[8.0]], [[4.0, 4.0]], [[1.0, 3.0, 0.0, 4.0]]]
    first, second = tree_angles(levels)
    assert first[0, 0] == pytest.approx(math.pi / 2)
    assert second[0].tolist() == pytest.approx([2 * math.pi / 3, math.pi])


@given(st.lists(st.floats(-10, 10), min_size=8, max_size=8).filter(lambda v: sum(x * x for x in v) > 1e-3))
def test_signed_vectors_are_loaded_with_their_signs(entries):
    v = torch.tensor([entries], dtype=torch.float64)
    state = statevector(loading_circuit(3), loading_values(signed_angles(v)))
    torch.testing.assert_close(state.real, v / v.norm(), rtol=0, atol=1e-7)
    assert float(state.imag.abs().max()) < 1e-12


@pytest.mark.parametrize("n", [1, 3, 6, 10])
def test_descents_follow_the_weights(draws_p, n):
    w = weights(n, 100 + n)
    index = descend(sum_tree(w), 200_000, torch.Generator().manual_seed(n))
    for row in range(2):
        assert draws_p(index[row], w[row] / w[row].sum()) > LEVEL


def test_a_planted_distortion_is_found(draws_p):
    w = torch.rand(1, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.1
    index = descend(sum_tree(w), 200_000, torch.Generator().manual_seed(1))[0]
    distorted = w[0].clone()
    distorted[::2] *= 1.05
    assert draws_p(index, w[0] / w.sum()) > LEVEL
    assert draws_p(index, distorted / distorted.sum()) < LEVEL


def test_drawing_by_the_distribution_function(draws_p):
    w = weights(8, 5).float()
    index = draw(w, 200_000, torch.Generator().manual_seed(2))
    for row in range(2):
        assert draws_p(index[row], w[row].double() / w[row].double().sum()) > LEVEL


def test_weights_of_zero_are_never_drawn():
    w = torch.zeros(1, 64, dtype=torch.float64)
    w[0, 17] = 1e-300
    for draws in (
        descend(sum_tree(w), 1000, torch.Generator().manual_seed(0)),
        draw(w, 1000, torch.Generator().manual_seed(0)),
    ):
        assert (draws == 17).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, 2.0, 3.0], "not a power of two"),
        ([1.0, -1.0], "not negative"),
        ([1.0, float("nan")], "finite"),
        ([1.0, float("inf")], "finite"),
        ([0.0, 0.0], "not all be 0"),
    ],
)
def test_wrong_weights_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        AmplitudeTask(torch.tensor([values]))

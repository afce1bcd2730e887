"""Ising and QUBO: exact in both directions."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qdreamer.quantum.circuits.sampling import bits_to_index, index_to_bits
from qdreamer.quantum.qaoa.ising import Ising, all_bits, energies, energy, from_qubo

WHOLE = st.integers(-1000, 1000)


@st.composite
def qubos(draw, elements=WHOLE):
    n = draw(st.integers(1, 7))
    rows = draw(st.lists(st.lists(elements, min_size=n, max_size=n), min_size=n, max_size=n))
    return torch.tensor(rows, dtype=torch.float64), float(draw(elements))


def value(q, constant, bits):
    b = bits.double()
    return float(b @ q @ b) + constant


def to_qubo(ising):
    """Q (n, n), upper triangular, and a constant with bᵀQb + constant = E(1 − 2b)."""
    both = ising.J + ising.J.t()
    q = 4 * ising.J + (-2 * (ising.h + both.sum(1))).diag()
    return q, ising.constant + float(ising.h.sum() + ising.J.sum())


@given(qubos())
def test_same_energies_and_exactly_back(problem):
    q, constant = problem
    n = len(q)
    ising = from_qubo(q, constant)
    for bits in all_bits(n)[:: max(1, 2**n // 16)]:
        assert float(energy(ising, bits)) == value(q, constant, bits)
    # The form is unique up to which of Q_ij, Q_ji holds a pair: b² = b.
    back, shift = to_qubo(ising)
    assert torch.equal(back, q.triu() + q.tril(-1).t())
    assert shift == constant


@given(qubos(st.floats(-1e3, 1e3)))
def test_real_problems_go_round_within_rounding(problem):
    q, constant = problem
    back, shift = to_qubo(from_qubo(q, constant))
    size = 1 + float(q.abs().sum()) + abs(constant)
    assert float((back - (q.triu() + q.tril(-1).t())).abs().max()) <= 1e-14 * size
    assert abs(shift - constant) <= 1e-14 * size


@given(qubos())
def test_ising_comes_back_exactly(problem):
    ising = from_qubo(*problem)
    again = from_qubo(*to_qubo(ising))
    assert torch.equal(again.h, ising.h) and torch.equal(again.J, ising.J)
    assert again.constant == ising.constant


def test_golden():
    # E = 2 − z0 + 3·z0·z1: bits 00, 10, 01, 11 (bit 0 first).
    ising = Ising(torch.tensor([-1.0, 0.0]), torch.tensor([[0.0, 3.0], [0.0, 0.0]]), 2.0)
    assert energies(ising).tolist() == [4.0, 0.0, -2.0, 6.0]
    q, constant = to_qubo(ising)
    assert q.tolist() == [[-4.0, 12.0], [0.0, -6.0]] and constant == 4.0


@pytest.mark.parametrize("n", [1, 2, 3, 8, 11])
def test_all_energies_against_the_definition(random_ising, n):
    ising = random_ising(n, n)
    table = energies(ising, torch.float64)
    for index, spins in enumerate(itertools.product((1.0, -1.0), repeat=n)):
        z = spins[::-1]  # the last factor of the product varies fastest: bit 0
        expected = ising.constant + sum(float(ising.h[i]) * z[i] for i in range(n))
        expected += sum(float(ising.J[i, j]) * z[i] * z[j] for i in range(n) for j in range(i + 1, n))
        assert float(table[index]) == pytest.approx(expected, abs=1e-11)
    torch.testing.assert_close(energies(ising).double(), table, rtol=1e-5, atol=1e-5)


def test_bits_and_indices():
    index = torch.arange(32)
    assert torch.equal(bits_to_index(index_to_bits(index, 5)), index)
    assert index_to_bits(torch.tensor(6), 4).tolist() == [0, 1, 1, 0]


def test_wrong_problems_are_refused():
    zero = torch.zeros(2)
    with pytest.raises(ValueError, match="on and below its diagonal"):
        Ising(zero, torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    with pytest.raises(ValueError, match="finite"):
        Ising(torch.tensor([0.0, float("nan")]), torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"must be \(n,\) and \(n, n\)"):
        Ising(zero, torch.zeros(3, 3))
    with pytest.raises(ValueError, match=r"must be \(n, n\)"):
        from_qubo(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="at most 24"):
        energies(Ising(torch.zeros(25), torch.zeros(25, 25)))

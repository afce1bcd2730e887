"""Overlaps by the inversion test."""

import pytest
import torch

from qdreamer.quantum.backends.statevector import Statevector
from qdreamer.quantum.circuits.circuit import statevector
from qdreamer.quantum.circuits.overlaps import OverlapTask, exact_overlaps, overlap_circuit, qubits_for
from qdreamer.quantum.circuits.readout import zero_probability


def pairs(width, rows=20, seed=0):
    g = torch.Generator().manual_seed(seed)
    q, k = torch.randn(2, rows, width, generator=g, dtype=torch.float64)
    k[0] = -3 * q[0]  # overlap 1
    k[1] = q[1].flip(0) * torch.tensor([(-1.0) ** i for i in range(width)]) if width % 2 == 0 else k[1]
    q[2] = 0.0
    q[2, 0] = 1.0  # a basis state: many nodes without weight
    return q, k


@pytest.mark.parametrize("width", [1, 2, 3, 7, 8, 16, 32])
def test_all_zeros_has_the_overlap_as_its_probability(width):
    q, k = pairs(width)
    task = OverlapTask(q, k)
    p = statevector(task.circuit(), task.values()).abs() ** 2
    torch.testing.assert_close(p[:, 0], exact_overlaps(q, k), rtol=0, atol=1e-12)
    torch.testing.assert_close(p.sum(1), torch.ones(20, dtype=torch.float64))
    assert float(p[0, 0]) == pytest.approx(1.0)
    if width % 2 == 0:
        assert float(p[1, 0]) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("n", [1, 2, 4, 5])
def test_one_level_is_merged(n):
    assert overlap_circuit(n).two_qubit_gates == max(0, 2 * (2**n - 2) - (2 ** (n - 1) if n > 1 else 0))


def test_shots_stay_within_the_binomials_bounds():
    q, k = pairs(16, rows=100, seed=1)
    task, shots = OverlapTask(q, k), 4000
    bits = Statevector().submit([task], shots, 0).result().bits[0]
    p = exact_overlaps(q, k)
    # Hoeffding with a union bound over the rows: family-wise level 1e-4.
    bound = (torch.log(torch.tensor(2 * 100 / 1e-4)) / (2 * shots)).sqrt()
    error = (OverlapTask.overlaps(bits) - p).abs()
    assert float(error.max()) < float(bound)
    z = (error / (p * (1 - p) / shots).sqrt().clamp(min=1e-9))[3:]
    assert 0.5 < float((z**2).mean()) < 1.6  # the variance of the binomial, neither more nor less


def test_zero_probability_of_known_bits():
    bits = torch.tensor([[[0, 0], [0, 1], [0, 0], [1, 1]]], dtype=torch.uint8)
    assert zero_probability(bits, None).tolist() == [0.5]


def test_wrong_vectors_are_refused():
    assert [qubits_for(d) for d in (1, 2, 3, 4, 16, 17)] == [1, 1, 2, 2, 4, 5]
    with pytest.raises(ValueError, match=r"must both be \(R, d\)"):
        OverlapTask(torch.ones(2, 3), torch.ones(3, 3))
    with pytest.raises(ValueError, match="not all be 0"):
        OverlapTask(torch.zeros(1, 4), torch.ones(1, 4)).values()

"""Slater determinants: the circuit of the projection process that `replay.diverse=dpp` samples."""

from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from qdreamer.agents.replay.diversity.dpp import sample
from qdreamer.quantum.backends.factory import make_backend
from qdreamer.quantum.backends.statevector import Statevector
from qdreamer.quantum.circuits.backend import run
from qdreamer.quantum.circuits.circuit import statevector
from qdreamer.quantum.circuits.slater import SlaterTask, givens_angles, slater_circuit


def orthonormal(modes, particles, seed=0):
    return torch.linalg.qr(torch.from_numpy(np.random.default_rng(seed).normal(size=(modes, particles))))[0]


@pytest.mark.parametrize(("modes", "particles"), [(2, 1), (4, 2), (5, 3), (6, 1), (6, 5), (4, 4)])
def test_amplitudes_are_determinants(modes, particles):
    vectors = orthonormal(modes, particles)
    circuit = slater_circuit(modes, particles)
    state = statevector(circuit, givens_angles(vectors)[None])[0]
    expected = torch.zeros(2**modes, dtype=torch.float64)
    for subset in combinations(range(modes), particles):
        expected[sum(1 << i for i in subset)] = torch.linalg.det(vectors[list(subset)]) ** 2
    torch.testing.assert_close(state.abs().square(), expected, rtol=0.0, atol=1e-12)
    assert circuit.two_qubit_gates == 4 * (particles * modes - particles * (particles + 1) // 2)


def test_shots_are_distributed_as_the_exact_sampler():
    vectors, random = orthonormal(6, 3), np.random.default_rng(0)
    bits = run(Statevector(), [SlaterTask(vectors[None])], 4000, 0).bits[0][0]  # (S, 6)
    assert (bits.sum(1) == 3).all()
    drawn = torch.zeros(4000, 6, dtype=torch.uint8)
    for row in drawn:
        row[sample(vectors.numpy(), random)] = 1
    for found in (bits, drawn):
        assert chisquare(*counted(found, vectors)).pvalue > 1e-4


@pytest.mark.parametrize("choice", ["aer", "pennylane"])
def test_other_backends_draw_the_same(quantum_config, choice):
    vectors, shots = orthonormal(4, 2), 4000
    bits = run(make_backend(quantum_config(choice)), [SlaterTask(vectors[None])], shots, 1).bits[0][0]
    assert chisquare(*counted(bits, vectors)).pvalue > 1e-4


@pytest.mark.parametrize("choice", ["aer_noisy", "ibm"])
def test_a_noisy_device_loses_particles(quantum_config, choice):
    """20 CX as written: what is measured is still near, and not all of it has two particles."""
    vectors, shots = orthonormal(4, 2), 2000
    backend = make_backend(quantum_config(choice, device="FakeManilaV2"))
    bits = run(backend, [SlaterTask(vectors[None])], shots, 1).bits[0][0]
    kept = (bits.sum(1) == 2).double().mean()
    assert 0.5 < kept < 1.0
    seen, expected = counted(bits[bits.sum(1) == 2], vectors)
    assert 0.5 * np.abs(seen / seen.sum() - expected / expected.sum()).sum() < 0.3


def counted(bits, vectors):
    """How often each subset was measured, and how often it would be expected."""
    subsets = list(combinations(range(len(vectors)), vectors.shape[1]))
    number = {sum(1 << i for i in s): k for k, s in enumerate(subsets)}
    seen = np.zeros(len(subsets))
    for row in bits.tolist():
        seen[number[sum(bit << i for i, bit in enumerate(row))]] += 1
    p = np.array([float(torch.linalg.det(vectors[list(s)]) ** 2) for s in subsets])
    return seen, seen.sum() * p / p.sum()

"""Angles in, expectation values out, in torch and on devices of PennyLane."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from qdreamer.quantum.backends.pennylane_backend import expectation_node
from qdreamer.quantum.circuits.angle_encoding import (
    encoding_circuit,
    encoding_values,
    expectations,
    expected_z,
)
from qdreamer.quantum.circuits.circuit import statevector


def drawn(rows, qubits, blocks=2, ring=True, seed=0):
    source = torch.Generator().manual_seed(seed)
    inputs = torch.rand(rows, qubits, generator=source, dtype=torch.float64)
    angles = torch.rand(blocks, 1 + ring, qubits, 3, generator=source, dtype=torch.float64)
    return inputs, (2 * angles - 1) * math.pi


@given(st.integers(1, 5), st.integers(2, 6), st.integers(0, 999))
def test_without_blocks_that_do_anything_z_is_a_cosine(rows, qubits, seed):
    inputs, angles = drawn(rows, qubits, seed=seed)
    assert_close(expected_z(inputs, torch.zeros_like(angles)), torch.cos(math.pi * inputs))


@given(st.integers(1, 5), st.integers(2, 6), st.integers(0, 999), st.booleans())
def test_values_lie_in_range_and_rows_do_not_meet(rows, qubits, seed, ring):
    inputs, angles = drawn(rows, qubits, ring=ring, seed=seed)
    z = expected_z(inputs, angles)
    assert z.shape == (rows, qubits)
    assert z.abs().max() <= 1.0 + 1e-12
    assert_close(expected_z(inputs[-1:], angles), z[-1:])


@pytest.mark.parametrize("ring", [True, False])
@pytest.mark.parametrize("qubits", [2, 3, 5])
def test_the_gates_give_the_same(qubits, ring):
    inputs, angles = drawn(4, qubits, ring=ring)
    state = statevector(encoding_circuit(2, qubits, ring), encoding_values(inputs, angles))
    assert_close(expectations(state.abs().square()), expected_z(inputs, angles))


@pytest.mark.parametrize(("device", "error"), [("default.qubit", 1e-8), ("lightning.qubit", 1e-6)])
def test_pennylane_gives_the_same_values_and_gradients(device, error):
    inputs, angles = (x.requires_grad_() for x in drawn(3, 3))
    slopes = torch.linspace(-1.0, 1.0, 9, dtype=torch.float64).view(3, 3)
    node = expectation_node(encoding_circuit(2, 3), device)
    ours, theirs = expected_z(inputs, angles), node(encoding_values(inputs, angles))
    assert_close(theirs.double(), ours, rtol=0.0, atol=error)  # lightning answers in float32
    found = [torch.autograd.grad((z * slopes).sum(), (inputs, angles)) for z in (ours, theirs)]
    assert found[0][0].abs().max() > 0.1 and found[0][1].abs().max() > 0.1
    for a, b in zip(*found, strict=True):
        assert_close(a, b, rtol=0.0, atol=1e-6)


def test_shots_on_pennylane_come_near_and_so_do_their_gradients():
    inputs, angles = drawn(2, 2, blocks=1)
    angles.requires_grad_()
    node = expectation_node(encoding_circuit(1, 2), "default.qubit", shots=4000)
    exact, found = expected_z(inputs, angles), node(encoding_values(inputs, angles))
    assert 0.0 < (found - exact).abs().max() < 5 / 4000**0.5
    slopes = [torch.autograd.grad(z.sum(), angles)[0] for z in (exact, found)]
    assert 0.0 < (slopes[1] - slopes[0]).abs().max() < 40 / 4000**0.5


def test_a_device_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"default\.quibt is no PennyLane device here"):
        expectation_node(encoding_circuit(1, 2), "default.quibt")

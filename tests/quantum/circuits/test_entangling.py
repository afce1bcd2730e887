"""Blocks of U3 and a ring of CU3: equal to PennyLane's, in every form in which they are run."""

import math

import pennylane as qml
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from qdreamer.quantum.backends.factory import make_backend
from qdreamer.quantum.circuits.circuit import statevector
from qdreamer.quantum.circuits.entangling import (
    EntanglingTask,
    amplitudes,
    check_angles,
    entangling_circuit,
    evolve,
    gate_angles,
    probabilities,
    u3,
)
from qdreamer.quantum.circuits.shots import (
    frequencies,
    measured_probabilities,
    shifted_gradient,
    update_cost,
)

GOLDEN = [
    0.0013052206726264933, 0.31249356095206726, 0.0022568667150099264, 0.40588719038110577,
    0.06119897391327201, 0.008775126443995746, 0.17038271566580968, 0.03770034525611175,
]  # fmt: skip
SHAPES = [(1, 2), (2, 3), (2, 4), (3, 5), (1, 6), (2, 7)]


def random_angles(blocks, qubits, ring=True, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(blocks, 2 if ring else 1, qubits, 3, generator=generator, dtype=torch.float64)
    return ((2 * drawn - 1) * math.pi).to(dtype)


def pennylane_state(angles):
    """The definition in PennyLane's own gates; its first wire is the highest bit, so wires are reversed."""
    _, qubits, ring = check_angles(angles)

    @qml.qnode(qml.device("default.qubit", wires=range(qubits)[::-1]), interface="torch")
    def state():
        for block in angles:
            for q in range(qubits):
                qml.U3(*block[0, q], wires=q)
            for q in range(qubits if ring else 0):
                qml.ctrl(qml.U3, control=q)(*block[1, q], wires=(q + 1) % qubits)
        return qml.state()

    return state()


@pytest.mark.parametrize("ring", [True, False])
@pytest.mark.parametrize(("blocks", "qubits"), SHAPES)
def test_amplitudes_and_gradients_are_pennylanes(blocks, qubits, ring):
    angles = random_angles(blocks, qubits, ring).requires_grad_()
    weights = torch.randn(2**qubits, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ours, theirs = amplitudes(angles), pennylane_state(angles)
    assert_close(ours, theirs, rtol=0.0, atol=1e-8)
    slopes = [torch.autograd.grad((probabilities(s) * weights).sum(), angles)[0] for s in (ours, theirs)]
    assert slopes[0].abs().max() > 1e-3
    assert_close(slopes[0], slopes[1], rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("ring", [True, False])
@pytest.mark.parametrize(("blocks", "qubits"), SHAPES)
def test_gates_of_every_backend_give_the_same_probabilities(blocks, qubits, ring):
    angles = random_angles(blocks, qubits, ring, seed=3)
    task = EntanglingTask(torch.stack([angles, -angles]))
    states = statevector(task.circuit(), task.values())
    for state, row in zip(states, task.angles, strict=True):
        assert_close(state.abs().square(), probabilities(amplitudes(row)), rtol=0.0, atol=1e-12)


@given(st.integers(1, 3), st.integers(2, 8), st.integers(0, 2**16), st.booleans())
def test_evolution_is_unitary_and_treats_rows_alone(blocks, qubits, seed, ring):
    angles = random_angles(blocks, qubits, ring, seed)
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(3, 2**qubits, dtype=torch.complex128, generator=generator)
    out = evolve(states, angles)
    assert_close(out @ out.conj().t(), states @ states.conj().t())  # inner products are kept
    assert_close(evolve(states[1:2], angles), out[1:2])


@given(st.integers(2, 8), st.integers(0, 2**16))
def test_without_a_ring_the_state_is_a_product(qubits, seed):
    state = amplitudes(random_angles(2, qubits, ring=False, seed=seed))
    for q in range(qubits):
        halves = state.view(-1, 2, 2**q).transpose(0, 1).reshape(2, -1)
        assert torch.linalg.svdvals(halves)[1] < 1e-7
    ring = amplitudes(random_angles(2, qubits, seed=seed)).view(-1, 2)
    assert torch.linalg.svdvals(ring.t())[1] > 1e-6


def test_angles_of_zero_do_nothing_and_x_travels_once_around_the_ring():
    """θ = π, λ = π: U3 = X. Qubit 0 is flipped, and with it, one after the other, all the ring."""
    angles = torch.zeros(1, 2, 4, 3, dtype=torch.float64)
    assert probabilities(amplitudes(angles))[0] == pytest.approx(1.0)
    flip = torch.tensor([math.pi, 0.0, math.pi], dtype=torch.float64)
    assert_close(u3(flip), torch.tensor([[0, 1], [1, 0]], dtype=torch.complex128))
    angles[0, 0, 0], angles[0, 1, :] = flip, flip
    # 1 → 11 → 111 → 1111, and the last gate flips qubit 0 back.
    assert probabilities(amplitudes(angles))[0b1110] == pytest.approx(1.0)


def test_golden_probabilities():
    angles = torch.linspace(-3.0, 3.0, 18, dtype=torch.float64).view(1, 2, 3, 3)
    expected = torch.tensor(GOLDEN, dtype=torch.float64)
    assert_close(probabilities(amplitudes(angles)), expected, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 3, 3), (1, 3, 2, 3), (1, 2, 1, 3), (1, 2, 4, 2)])
def test_angles_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"angles must be \(L, 2, n, 3\)"):
        amplitudes(torch.zeros(shape))


@pytest.mark.parametrize(
    ("choice", "changes"),
    [("statevector", {}), ("aer", {}), ("pennylane", {"device": "lightning.qubit"})],
)
def test_shots_are_drawn_from_the_exact_probabilities(choice, changes, quantum_config, draws_p):
    angles = random_angles(2, 4, seed=5)
    backend = make_backend(quantum_config(choice, **changes))
    found = measured_probabilities(angles, backend, 20_000, seed=7)
    index = torch.arange(16).repeat_interleave((found * 20_000).round().long())
    assert draws_p(index, probabilities(amplitudes(angles))) > 1e-3
    wrong = probabilities(amplitudes(random_angles(2, 4, seed=6)))
    assert draws_p(index, wrong) < 1e-6


@pytest.mark.slow
def test_a_fake_device_runs_the_blocks_with_its_noise(quantum_config):
    angles = random_angles(1, 4, seed=5)
    exact = probabilities(amplitudes(angles))
    for choice in ("ibm", "aer_noisy"):
        backend = make_backend(quantum_config(choice, device="FakeGuadalupeV2"))
        found = measured_probabilities(angles, backend, 20_000, seed=1)
        assert backend.estimate(entangling_circuit(1, 4)).two_qubit_gates >= 8
        distance = 0.5 * (found - exact).abs().sum()
        assert 0.02 < distance < 0.3  # noise is seen, and the state still is


def test_parameter_shift_on_shots_is_the_gradient_within_its_error(quantum_config):
    angles = random_angles(1, 3, seed=2).requires_grad_()
    weights = torch.linspace(-1.0, 1.0, 8, dtype=torch.float64)
    (exact,) = torch.autograd.grad((probabilities(amplitudes(angles)) * weights).sum(), angles)
    backend, shots = make_backend(quantum_config("aer")), 4000
    found = shifted_gradient(angles, weights, backend, shots, seed=3)
    # A shifted value errs by at most 1/√S (weights within ±1); a CU3's slope adds up to four of them.
    assert (found - exact).abs().max() < 4 * 2.0 / shots**0.5
    assert (found - exact).abs().max() > 0.0
    assert exact.abs().max() > 0.1


def test_gate_angles_are_linear_and_the_cost_counts_every_rotation_twice():
    a, b = random_angles(2, 5, seed=1), random_angles(2, 5, seed=2)
    assert_close(gate_angles(a + 2 * b), gate_angles(a) + 2 * gate_angles(b))
    circuit = entangling_circuit(2, 5)
    assert circuit.parameters == len(gate_angles(a)) == 9 * 5 * 2
    assert circuit.two_qubit_gates == 2 * 5 * 2
    cost = update_cost(8, 13)
    assert cost.circuits == 1 + 2 * 9 * 13 * 8
    assert 1e8 < cost.shots < 2e8


def test_frequencies_add_up():
    bits = torch.tensor([[[0, 0], [1, 0], [1, 0], [1, 1]]], dtype=torch.uint8)
    assert frequencies(bits).tolist() == [[0.25, 0.5, 0.0, 0.25]]

"""QAOA: the fast simulator against the circuit, gate by gate and in other people's simulators."""

import itertools
import math

import pytest
import torch

from qdreamer.quantum.circuits.circuit import Circuit, Gate, statevector
from qdreamer.quantum.qaoa.ansatz import (
    Angles,
    IsingTask,
    angles,
    qaoa_circuit,
    scale,
    warm_start,
)
from qdreamer.quantum.qaoa.ising import Ising, energies
from qdreamer.quantum.qaoa.simulator import Simulator
from qdreamer.quantum.qaoa.variational import optimized


def two_sets(ising, layers, warm=None):
    a = angles(ising, layers, warm=warm)
    return Angles(torch.cat([a.gamma, 0.6 * a.gamma]), torch.cat([a.beta, 1.3 * a.beta]), warm)


def by_gates(ising, a):
    circuit = qaoa_circuit(ising.qubits, ising.edges, a.layers, a.warm is not None)
    return statevector(circuit, IsingTask(ising, a).values())


def test_gates_golden():
    # One gate of each kind on |01⟩ (qubit 0 is 1), by hand.
    half = math.sqrt(0.5)
    cases = [
        (Gate("h", (0,)), [half, -half, 0, 0]),
        (Gate("x", (1,)), [0, 0, 0, 1]),
        (Gate("cx", (0, 1)), [0, 0, 0, 1]),
        (Gate("cx", (1, 0)), [0, 1, 0, 0]),
        (Gate("rx", (0,), 0), [-1j * half, half, 0, 0]),
        (Gate("ry", (0,), 0), [-half, half, 0, 0]),
        (Gate("rz", (0,), 0), [0, complex(half, half), 0, 0]),
        (Gate("rzz", (0, 1), 0), [0, complex(half, half), 0, 0]),
    ]
    for gate, expected in cases:
        circuit = Circuit(2, (Gate("x", (0,)), gate), 1)
        state = statevector(circuit, torch.tensor([[math.pi / 2]]))[0]
        torch.testing.assert_close(state, torch.tensor(expected, dtype=torch.complex128))


@pytest.mark.parametrize("n", [1, 2, 5, 9, 12])
@pytest.mark.parametrize("layers", [1, 2, 3, 4])
@pytest.mark.parametrize("warm", [False, True])
def test_amplitudes_equal_the_circuits(random_ising, n, layers, warm):
    ising = random_ising(n, 10 * n + layers)
    theta = warm_start(torch.arange(n) % 2) if warm else None
    a = two_sets(ising, layers, theta)
    expected = by_gates(ising, a)
    assert float((Simulator(ising).amplitudes(a) - expected).abs().max()) < 1e-6
    double = Simulator(ising, torch.float64)
    assert float((double.amplitudes(a) - expected).abs().max()) < 1e-13
    probabilities = expected.abs() ** 2
    torch.testing.assert_close(double.probabilities(a), probabilities, rtol=0, atol=1e-13)
    torch.testing.assert_close(double.expectation(a), probabilities @ energies(ising, torch.float64))


@pytest.mark.parametrize("factor", [1e-160, 1e-13, 1e38])
def test_amplitudes_do_not_depend_on_scale_and_constant(random_ising, factor):
    ising = random_ising(8, 1)
    other = Ising(ising.h * factor, ising.J * factor, 1e5 * factor)
    expected = Simulator(ising, torch.float64).probabilities(angles(ising, 3))
    found = Simulator(other).probabilities(angles(other, 3))
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_amplitudes_equal_aers_and_pennylanes(random_ising, layers):
    pennylane = pytest.importorskip("pennylane")
    import numpy as np
    from qiskit_aer import AerSimulator

    from qdreamer.quantum.backends.pennylane_backend import apply
    from qdreamer.quantum.backends.qiskit_sampler import translate

    n = 12 if layers in (1, 4) else 7
    ising = random_ising(n, layers)
    task = IsingTask(ising, angles(ising, layers))
    own = Simulator(ising).amplitudes(task.angles)[0]
    circuit = translate(task.circuit()).remove_final_measurements(inplace=False)
    values = task.values()[0].numpy()
    bound = circuit.assign_parameters(values)
    bound.save_statevector()
    result = AerSimulator(method="statevector", max_parallel_threads=1).run(bound).result()
    aer = torch.from_numpy(np.asarray(result.get_statevector()))
    assert float((own - aer).abs().max()) < 1e-6

    def state():
        apply(task.circuit(), values)
        return pennylane.state()

    # PennyLane's first wire is the highest bit.
    device = pennylane.device("lightning.qubit", wires=range(n - 1, -1, -1))
    lightning = torch.from_numpy(np.asarray(pennylane.QNode(state, device)()))
    assert float((own - lightning).abs().max()) < 1e-6


def test_constant_shifts_energies_and_nothing_else(random_ising):
    ising = random_ising(6, 0)
    shifted = Ising(ising.h, ising.J, ising.constant + 100.0)
    a = angles(ising, 2)
    torch.testing.assert_close(Simulator(shifted).probabilities(a), Simulator(ising).probabilities(a))
    difference = Simulator(shifted).expectation(a) - Simulator(ising).expectation(a)
    assert float(difference) == pytest.approx(100.0, rel=1e-5)


def test_one_layer_of_one_spin_by_hand():
    # E = hz: ⟨E⟩ = −h·sin 2γh·sin 2β with M = −X.
    ising = Ising(torch.tensor([0.7]), torch.zeros(1, 1))
    gamma, beta = torch.tensor([[0.3], [1.1]]), torch.tensor([[0.2], [0.5]])
    expected = -0.7 * torch.sin(2 * 0.7 * gamma) * torch.sin(2 * beta)
    found = Simulator(ising).expectation(Angles(gamma, beta)).float()  # as precise as the amplitudes
    torch.testing.assert_close(found, expected[:, 0])


def test_angles_do_not_care_for_the_problems_scale(random_ising):
    ising = random_ising(7, 1)
    larger = Ising(50 * ising.h, 50 * ising.J)
    small, large = Simulator(ising), Simulator(larger)
    p = small.probabilities(angles(ising, 3))
    torch.testing.assert_close(large.probabilities(angles(larger, 3)), p, rtol=1e-3, atol=1e-6)
    # SK couplings of unit variance over √n keep the published angles.
    n = 400
    couplings = torch.randn(n, n, generator=torch.Generator().manual_seed(0)).triu(1) / math.sqrt(n)
    assert scale(Ising(torch.zeros(n), couplings)) == pytest.approx(1.0, abs=0.01)


# ⟨E⟩/n of the SK model at infinite size (Farhi et al. 1910.08472, Basso et al. 2110.14206).
PUBLISHED = (-0.3033, -0.4075, -0.4726, -0.5157, -0.5476, -0.5721, -0.5915, -0.6073)


def test_energies_are_those_published_for_infinite_size():
    n, generator = 16, torch.Generator().manual_seed(0)
    found = torch.zeros(8)
    for _ in range(20):
        couplings = torch.randn(n, n, generator=generator).triu(1) / math.sqrt(n)
        simulator = Simulator(Ising(torch.zeros(n), couplings))
        for layers in range(1, 9):
            found[layers - 1] += simulator.expectation(angles(simulator.ising, layers))[0] / n / 20
    assert (found.diff() < 0).all()  # more layers, lower energy
    # Finite size costs about 1/n with few layers, more with many.
    torch.testing.assert_close(found[:4], torch.tensor(PUBLISHED[:4]), rtol=1 / n, atol=0)


@pytest.mark.parametrize("layers", range(1, 9))
def test_published_angles_are_stationary_on_average(layers):
    """Steps of ±10 % in any angle do not lower the mean energy of SK problems by more than finite size."""
    generator = torch.Generator().manual_seed(1)
    change = torch.zeros(4 * layers, dtype=torch.float64)
    for _ in range(20):
        ising = Ising(torch.zeros(10), torch.randn(10, 10, generator=generator).triu(1))
        a = angles(ising, layers)
        x = torch.cat([a.gamma, a.beta], 1)
        factors = torch.cat([1 + 0.1 * torch.eye(2 * layers), 1 - 0.1 * torch.eye(2 * layers)])
        rows = torch.cat([x, x * factors])
        values = Simulator(ising).expectation(Angles(rows[:, :layers], rows[:, layers:])).double()
        change += (values[1:] - values[0]) / values[0].abs() / 20
    assert float(change.min()) > -0.02
    assert float(change.max()) > 0.001


def test_warm_start_begins_where_it_should(random_ising):
    ising = random_ising(5, 2)
    bits = torch.tensor([1, 0, 0, 1, 1])
    theta = warm_start(bits, 0.2)
    nothing = Angles(torch.zeros(1, 1), torch.zeros(1, 1), theta)
    p = Simulator(ising).probabilities(nothing)[0]
    assert float(p[0b11001]) == pytest.approx(0.8**5, rel=1e-5)
    # The mixer leaves its ground state alone.
    mixed = Angles(torch.zeros(1, 1), torch.full((1, 1), 0.7), theta)
    torch.testing.assert_close(Simulator(ising).probabilities(mixed)[0], p, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("warm", [False, True])
def test_optimizer_steps_lower_the_expectation(random_ising, warm):
    ising = random_ising(8, 3)
    simulator = Simulator(ising)
    start = angles(ising, 2, warm=warm_start(torch.ones(8)) if warm else None)
    path = [float(simulator.expectation(optimized(simulator, start, steps))) for steps in (0, 1, 3, 6)]
    assert path[0] == pytest.approx(float(simulator.expectation(start)), rel=1e-6)
    assert all(after <= before + 1e-6 for before, after in itertools.pairwise(path))
    assert path[-1] < path[0] - 0.01 * float(energies(ising).std())


@pytest.mark.parametrize("warm", [False, True])
def test_sets_and_states_in_pieces(random_ising, monkeypatch, warm):
    ising = random_ising(9, 4)
    a = Angles(torch.rand(7, 2), torch.rand(7, 2), warm_start(torch.arange(9) % 2) if warm else None)
    whole = Simulator(ising).probabilities(a), Simulator(ising).amplitudes(a), Simulator(ising).expectation(a)
    monkeypatch.setattr("qdreamer.quantum.qaoa.simulator._CHUNK", 3 * 512)
    torch.testing.assert_close(Simulator(ising).probabilities(a), whole[0])
    for piece in (8, 4, 3):  # 2, 32 and 64 pieces
        monkeypatch.setattr("qdreamer.quantum.qaoa.simulator._PIECE", piece)
        torch.testing.assert_close(Simulator(ising).probabilities(a), whole[0])
        torch.testing.assert_close(Simulator(ising).amplitudes(a), whole[1])
        torch.testing.assert_close(Simulator(ising).expectation(a), whole[2], rtol=1e-5, atol=1e-5)


def test_wrong_angles_are_refused(random_ising):
    ising = random_ising(3, 0)
    with pytest.raises(ValueError, match="use angles=ramp"):
        angles(ising, 9)
    with pytest.raises(ValueError, match="neither fixed nor ramp"):
        angles(ising, 1, "vqe")
    assert angles(ising, 20, "ramp").layers == 20
    flat = Ising(torch.zeros(3), torch.zeros(3, 3))
    torch.testing.assert_close(Simulator(flat).probabilities(angles(flat, 2)), torch.full((1, 8), 0.125))
    with pytest.raises(ValueError, match="at most 24"):
        Simulator(Ising(torch.zeros(25), torch.zeros(25, 25)))

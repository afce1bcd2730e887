"""Noise channels against their closed forms, against PennyLane's, and a device's against the whole device."""

import math

import numpy as np
import pytest
import torch

from qdreamer.quantum.backends.factory import make_backend
from qdreamer.quantum.backends.statevector import probabilities
from qdreamer.quantum.circuits.backend import run
from qdreamer.quantum.circuits.circuit import Circuit, Gate
from qdreamer.quantum.circuits.grover_rudolph import AmplitudeTask
from qdreamer.quantum.circuits.overlaps import OverlapTask, exact_overlaps
from qdreamer.quantum.circuits.sampling import bits_to_index
from qdreamer.quantum.config import NoiseConfig
from qdreamer.quantum.noise.noise import configured_noise, device_noise, reduced_target
from qdreamer.quantum.qaoa.ansatz import IsingTask, angles
from qdreamer.quantum.qaoa.ising import energies
from qdreamer.quantum.qaoa.qaoa import mean_energy

OFF = {
    "depolarizing_one": 0.0,
    "depolarizing_two": 0.0,
    "amplitude_damping": 0.0,
    "phase_damping": 0.0,
    "t1": 0.0,
    "t2": 0.0,
    "time_one": 300.0,
    "time_two": 1000.0,
    "readout": 0.0,
}
CHANNELS = {
    "depolarizing": {"depolarizing_one": 0.02, "depolarizing_two": 0.05},
    "amplitude_damping": {"amplitude_damping": 0.03},
    "phase_damping": {"phase_damping": 0.04},
    "thermal": {"t1": 50.0, "t2": 60.0},
    "thermal_without_dephasing": {"t1": 40.0},
    "readout": {"readout": 0.03},
    "all": {
        "depolarizing_one": 0.01,
        "depolarizing_two": 0.03,
        "amplitude_damping": 0.02,
        "phase_damping": 0.02,
        "t1": 80.0,
        "t2": 70.0,
        "readout": 0.02,
    },
}


class OneGate:
    """A task of one RY rotation."""

    rows = 2

    def __init__(self, *extra):
        self._circuit = Circuit(1, (Gate("ry", (0,), 0), *extra), 1)

    def circuit(self):
        return self._circuit

    def values(self):
        return torch.tensor([[0.7], [2.0]], dtype=torch.float64)

    def probabilities(self):
        return None


def closed_form(noise, theta):
    """P(1) after a noisy RY(θ) and a noisy H, by Bloch vectors: z' → 1 − (1−γ)(1 − z), x' → ηx."""
    damping = 1 - (1 - noise["amplitude_damping"]) * (
        math.exp(-noise["time_one"] / (1000 * noise["t1"])) if noise["t1"] else 1.0
    )
    coherence = (1 - noise["depolarizing_one"]) * math.sqrt(
        (1 - noise["amplitude_damping"]) * (1 - noise["phase_damping"])
    )
    if noise["t1"]:
        coherence *= math.exp(-noise["time_one"] / (1000 * (noise["t2"] or 2 * noise["t1"])))

    def channel(x, z):
        return coherence * x, 1 - (1 - damping) * (1 - (1 - noise["depolarizing_one"]) * z)

    x, z = channel(math.sin(theta), math.cos(theta))
    x, z = channel(z, x)  # H swaps x and z
    one = (1 - z) / 2
    return one * (1 - noise["readout"]) + (1 - one) * noise["readout"]


@pytest.mark.parametrize("channel", CHANNELS)
def test_channels_by_hand(quantum_config, channel):
    noise = OFF | CHANNELS[channel]
    task = OneGate(Gate("h", (0,)))
    aer = make_backend(quantum_config("aer_noisy", device=None, noise=noise))
    mixed = make_backend(quantum_config("pennylane", device="default.mixed", noise=noise))
    expected = torch.tensor([closed_form(noise, theta) for theta in (0.7, 2.0)], dtype=torch.float64)
    for backend in (aer, mixed):
        found = backend.probabilities(task)
        torch.testing.assert_close(found[:, 1], expected, rtol=0, atol=1e-9)
    assert float((expected - probabilities(task)[:, 1]).abs().max()) > 1e-3


@pytest.fixture(scope="module")
def tasks(random_ising):
    ising = random_ising(3, 0)
    g = torch.Generator().manual_seed(2)
    q, k = torch.randn(2, 4, 8, generator=g, dtype=torch.float64)
    weights = torch.rand(2, 8, generator=g)
    return [IsingTask(ising, angles(ising, 2)), AmplitudeTask(weights), OverlapTask(q, k)]


@pytest.mark.parametrize("channel", CHANNELS)
def test_aer_and_pennylane_agree_on_whole_circuits(quantum_config, tasks, channel):
    noise = OFF | CHANNELS[channel]
    aer = make_backend(quantum_config("aer_noisy", device=None, noise=noise))
    mixed = make_backend(quantum_config("pennylane", device="default.mixed", noise=noise))
    for task in tasks:
        a, b = aer.probabilities(task), mixed.probabilities(task)
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)
        assert float((a - probabilities(task)).abs().max()) > 1e-3


def test_noisy_draws_follow_the_noisy_distribution(quantum_config, tasks, draws_p):
    noise = OFF | CHANNELS["all"]
    for config in (
        quantum_config("aer_noisy", device=None, noise=noise),
        quantum_config("aer_noisy", device=None, noise=noise, method="statevector"),
        quantum_config("pennylane", device="default.mixed", noise=noise),
        quantum_config("aer_noisy", device="FakeManilaV2"),
    ):
        backend = make_backend(config)
        exact = [backend.probabilities(task) for task in tasks]
        bits = run(backend, tasks, 2000, 3).bits
        for p, found in zip(exact, bits, strict=True):
            for row, index in enumerate(bits_to_index(found)):
                assert draws_p(index, p[row]) > 1e-4 / 40


def test_torch_gradients_through_a_noisy_circuit():
    from qdreamer.quantum.backends.pennylane_backend import overlap_node
    from qdreamer.quantum.circuits.overlaps import overlap_values

    noise = NoiseConfig(**(OFF | CHANNELS["all"]))
    g = torch.Generator().manual_seed(4)
    q, k = torch.randn(2, 3, 4, generator=g, dtype=torch.float64)
    q.requires_grad_()
    exact = overlap_node(2)(overlap_values(q, k))[:, 0]
    torch.testing.assert_close(exact, exact_overlaps(q, k), rtol=0, atol=1e-9)
    (expected,) = torch.autograd.grad(exact_overlaps(q, k).sum(), q)
    (found,) = torch.autograd.grad(exact.sum(), q)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    noisy = overlap_node(2, noise)
    (slope,) = torch.autograd.grad(noisy(overlap_values(q, k))[:, 0].sum(), q)
    step = torch.zeros_like(q)
    step[1, 2] = 1e-5
    with torch.no_grad():
        up, down = (noisy(overlap_values(q + s, k))[:, 0].sum() for s in (step, -step))
    assert float(slope[1, 2]) == pytest.approx(float(up - down) / 2e-5, rel=1e-4)
    assert float((slope - expected).abs().max()) > 1e-3


def test_a_reduced_device_is_the_device(quantum_config):
    """Density matrices on the active qubits of a device equal those of the whole device."""
    from qiskit_aer import AerSimulator
    from qiskit_aer.noise import NoiseModel

    from qdreamer.quantum.backends.device import active_qubits, compact, fake_device, transpile
    from qdreamer.quantum.backends.qiskit_sampler import measured_qubits, translate

    device = fake_device("FakeGuadalupeV2")
    task = AmplitudeTask(torch.rand(1, 8, generator=torch.Generator().manual_seed(0)))
    transpiled = transpile(translate(task.circuit()), device, 3)
    active = active_qubits(transpiled)
    assert len(active) < device.num_qubits
    small = compact(transpiled, active)
    found = []
    for circuit, model in (
        (transpiled, NoiseModel.from_backend(device)),
        (small, device_noise(reduced_target(device.target, active))),
    ):
        bound = circuit.assign_parameters(task.values()[0].numpy())
        bare = bound.remove_final_measurements(inplace=False)
        bare.save_probabilities(list(measured_qubits(circuit)))
        simulator = AerSimulator(method="density_matrix", noise_model=model, max_parallel_threads=1)
        result = simulator.run(bare, optimization_level=0).result()
        found.append(np.asarray(result.data()["probabilities"]))
    np.testing.assert_allclose(found[1], found[0], atol=1e-12)
    assert np.abs(found[0] - probabilities(task)[0].numpy()).max() > 1e-3


def test_a_silent_model_has_no_errors():
    assert configured_noise(NoiseConfig(**OFF)).is_ideal()


# Readout


@pytest.mark.parametrize("mitigation", [False, True])
def test_mitigation_removes_the_bias_of_readout(quantum_config, random_ising, mitigation):
    ising = random_ising(4, 5)
    g = torch.Generator().manual_seed(6)
    q, k = torch.randn(2, 6, 16, generator=g, dtype=torch.float64)
    task, overlap = IsingTask(ising, angles(ising, 2)), OverlapTask(q, k)
    config = quantum_config("aer_noisy", device=None, noise={"readout": 0.08}, mitigation=mitigation)
    shots = 40_000
    measurement = run(make_backend(config), [task, overlap], shots, 1)
    exact = probabilities(task)[0]
    mean = float(exact.double() @ energies(ising, torch.float64))
    found = float(mean_energy(ising, measurement.bits[0], measurement.confusion[0]))
    overlaps = OverlapTask.overlaps(measurement.bits[1], measurement.confusion[1])
    worst = float((overlaps - exact_overlaps(q, k)).abs().max())
    error = abs(found - mean) / float(energies(ising).std())
    if mitigation:
        assert error < 0.03 and worst < 0.02
        assert measurement.usage.circuits == 7 + 2  # the same qubits, calibrated once
    else:
        assert error > 0.1 and worst > 0.05
        assert measurement.confusion == (None, None)


def test_calibrations_are_measured_once(quantum_config):
    backend = make_backend(quantum_config("aer_noisy", device="FakeManilaV2", mitigation=True))
    task = AmplitudeTask(torch.ones(1, 4))
    # One shot says nothing about readout errors: whoever takes more calibrates again.
    shots = (1, 100, 100, 50, 2000, 4000)
    assert [run(backend, [task], s, seed).usage.circuits for seed, s in enumerate(shots)] == [
        3,
        3,
        1,
        1,
        3,
        1,
    ]

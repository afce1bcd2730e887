"""Any PennyLane device by name: lightning.qubit, default.qubit, default.mixed, plug-ins of other clouds.

default.mixed carries the configured noise channels, the same ones as Aer's (see `quantum.noise`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qdreamer.configs.schema import settings
from qdreamer.quantum.backends.credentials import one_line
from qdreamer.quantum.circuits.backend import BACKENDS, BackendError, Task
from qdreamer.quantum.circuits.circuit import Circuit
from qdreamer.quantum.circuits.sampling import ImmediateBackend
from qdreamer.quantum.config import NoiseConfig, QuantumConfig

_GATES = {"h": "Hadamard", "x": "PauliX", "cx": "CNOT", "rx": "RX", "ry": "RY", "rz": "RZ", "rzz": "IsingZZ"}


def apply(circuit: Circuit, values: Any, noise: NoiseConfig | None = None) -> None:
    """Queue the circuit's gates, wire i for qubit i; values (R, P) or (P,) of any interface.

    With noise, its channels follow every gate but RZ, and bit flips stand for readout errors.
    """
    import pennylane as qml

    for gate in circuit.gates:
        angles = () if gate.parameter is None else (values[..., gate.parameter],)
        getattr(qml, _GATES[gate.name])(*angles, wires=gate.qubits)
        if noise is not None and gate.name != "rz":
            for wire in gate.qubits:
                _channels(noise, wire, len(gate.qubits))
    if noise is not None and noise.readout > 0:
        for wire in range(circuit.qubits):
            qml.BitFlip(noise.readout, wires=wire)


def _channels(noise: NoiseConfig, wire: int, width: int) -> None:
    import pennylane as qml

    depolarizing = noise.depolarizing_one if width == 1 else noise.depolarizing_two
    time = noise.time_one if width == 1 else noise.time_two
    if depolarizing > 0:
        # PennyLane's p is the probability of any of the three Pauli errors.
        qml.DepolarizingChannel(0.75 * depolarizing, wires=wire)
    if noise.amplitude_damping > 0:
        qml.AmplitudeDamping(noise.amplitude_damping, wires=wire)
    if noise.phase_damping > 0:
        qml.PhaseDamping(noise.phase_damping, wires=wire)
    if noise.t1 > 0 and time > 0:
        t1, t2 = 1000 * noise.t1, 1000 * (noise.t2 or 2 * noise.t1)
        qml.ThermalRelaxationError(0.0, t1, t2, time, wires=wire)


def overlap_node(n: int, noise: NoiseConfig | None = None) -> Any:
    """Return a differentiable function of the angles (R, P) of `overlaps.overlap_circuit`: P(x) (R, 2^n).

    A QNode for torch with backprop: default.qubit, or default.mixed with noise. Overlaps are its
    first column.
    """
    import pennylane as qml

    from qdreamer.quantum.circuits.overlaps import overlap_circuit

    circuit = overlap_circuit(n)
    device = qml.device("default.qubit" if noise is None else "default.mixed", wires=n)

    def probabilities(values: Tensor) -> Any:
        apply(circuit, values, noise)
        return qml.probs(wires=range(n))

    return qml.QNode(probabilities, device, interface="torch", diff_method="backprop")


def expectation_node(circuit: Circuit, name: str, shots: int | None = None) -> Any:
    """Return a differentiable function of angles (R, P): ⟨Z⟩ of every qubit (R, n), on a device by name.

    Raises ValueError for a device that is not there.
    """
    import pennylane as qml

    try:
        device = qml.device(name, wires=circuit.qubits)
    except Exception as error:
        raise ValueError(f"{name} is no PennyLane device here ({one_line(error)})") from None

    def values(angles: Tensor) -> Any:
        apply(circuit, angles)
        return [qml.expval(qml.PauliZ(q)) for q in range(circuit.qubits)]

    backprop = shots is None and name.startswith("default.")
    method = "backprop" if backprop else "best" if shots is None else "parameter-shift"
    node = qml.set_shots(qml.QNode(values, device, interface="torch", diff_method=method), shots=shots)
    if not backprop:  # other gradients know no batches of angles
        node = qml.transforms.broadcast_expand(node)
    return lambda angles: torch.stack(node(angles), -1)


@settings
class PennyLaneConfig(QuantumConfig):
    takes = frozenset({"device", "noise"})
    samples = False
    needs_device = "lightning.qubit"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.noise.is_noiseless and self.device != "default.mixed":
            raise ValueError(f"quantum.noise needs quantum.device=default.mixed with quantum={self.name}")


@BACKENDS.register("pennylane", PennyLaneConfig)
class PennyLane(ImmediateBackend):
    """`quantum=pennylane`: the named device, made anew for every job so that it can be seeded."""

    name = "pennylane"

    def __init__(self, config: QuantumConfig) -> None:
        assert config.device is not None
        self._device = config.device
        self._noise = None if config.noise.is_noiseless else config.noise
        try:
            self._make(1, 0)
        except Exception as error:
            raise ValueError(
                f"quantum.device={config.device} is no PennyLane device here ({one_line(error)}): "
                "install its plug-in, or use lightning.qubit"
            ) from None

    def measure(self, tasks: Sequence[Task], shots: int, seed: int) -> tuple[Tensor, ...]:
        try:
            return tuple(self._run(task, seed + t, shots).to(torch.uint8) for t, task in enumerate(tasks))
        except Exception as error:
            raise BackendError(f"{self._device} failed: {one_line(error)}") from None

    def probabilities(self, task: Task) -> Tensor:
        """Return exact P(x) (R, 2^n) of a task."""
        return self._run(task, 0, None)

    def _make(self, wires: int, seed: int) -> Any:
        import pennylane as qml

        try:
            return qml.device(self._device, wires=wires, seed=seed)
        except TypeError:  # devices of clouds take no seed
            return qml.device(self._device, wires=wires)

    def _run(self, task: Task, seed: int, shots: int | None) -> Tensor:
        """Return measured bits (R, S, n) of a task, or without shots the probabilities (R, 2^n)."""
        import pennylane as qml

        circuit = task.circuit()
        wires = range(circuit.qubits)

        def outcome(values: Any) -> Any:
            apply(circuit, values, self._noise)
            # PennyLane's first wire is the highest bit of an index.
            return qml.probs(wires=wires[::-1]) if shots is None else qml.sample(wires=wires)

        node = qml.QNode(outcome, self._make(len(wires), seed), interface=None, diff_method=None)
        out = np.asarray(qml.set_shots(node, shots=shots)(task.values().numpy()))
        return torch.from_numpy(out.reshape((task.rows, -1) if shots is None else (task.rows, shots, -1)))

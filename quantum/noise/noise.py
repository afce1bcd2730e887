"""Noise channels as Qiskit Aer's noise models: from strengths in the config, or from a device's data.

Configured channels act on each qubit of every gate of `quantum.circuits.circuit` but RZ, in this order
(ρ is one qubit's state, K Kraus operators):

    depolarizing λ        ρ → (1 − λ)ρ + λ·½I
    amplitude damping γ   K₀ = diag(1, √(1−γ)), K₁ = √γ |0⟩⟨1|
    phase damping λ       K₀ = diag(1, √(1−λ)), K₁ = diag(0, √λ)
    thermal relaxation    amplitude damping 1 − e^{−t/T1}, coherences times e^{−t/T2}

and reading flips a bit with probability `readout`.
"""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qdreamer.quantum.config import NoiseConfig

if TYPE_CHECKING:  # imported only where they are used: it takes seconds
    from qiskit.transpiler import InstructionProperties, Target
    from qiskit_aer.noise import NoiseModel, QuantumError

ONE_QUBIT = ("h", "x", "rx", "ry")
TWO_QUBIT = ("cx", "rzz")


def configured_noise(config: NoiseConfig) -> NoiseModel:
    """Return the model of the configured strengths."""
    from qiskit_aer.noise import NoiseModel, ReadoutError

    model = NoiseModel(basis_gates=[*ONE_QUBIT, *TWO_QUBIT, "rz"])
    one = _channel(config, config.depolarizing_one, config.time_one)
    two = _channel(config, config.depolarizing_two, config.time_two)
    if one is not None:
        model.add_all_qubit_quantum_error(one, list(ONE_QUBIT))
    if two is not None:
        model.add_all_qubit_quantum_error(two.expand(two), list(TWO_QUBIT))
    if config.readout > 0:
        right, wrong = 1 - config.readout, config.readout
        model.add_all_qubit_readout_error(ReadoutError([[right, wrong], [wrong, right]]))
    return model


def _channel(config: NoiseConfig, depolarizing: float, nanoseconds: float) -> QuantumError | None:
    """Return what one qubit passes through after a gate; None if nothing."""
    from qiskit_aer import noise

    channels = []
    if depolarizing > 0:
        channels.append(noise.depolarizing_error(depolarizing, 1))
    if config.amplitude_damping > 0:
        channels.append(noise.amplitude_damping_error(config.amplitude_damping))
    if config.phase_damping > 0:
        channels.append(noise.phase_damping_error(config.phase_damping))
    if config.t1 > 0 and nanoseconds > 0:
        t1, t2 = 1000 * config.t1, 1000 * (config.t2 or 2 * config.t1)
        channels.append(noise.thermal_relaxation_error(t1, t2, nanoseconds))
    return functools.reduce(lambda first, then: first.compose(then), channels) if channels else None


def reduced_target(target: Target, qubits: tuple[int, ...]) -> Target:
    """Return the part of a device's data that concerns `qubits`, which become 0, 1, …

    A whole device of 156 qubits takes seconds to turn into a noise model and seconds more per run,
    though only the active qubits' errors count.
    """
    from qiskit.transpiler import Target

    place = {qubit: k for k, qubit in enumerate(qubits)}
    properties = None if target.qubit_properties is None else [target.qubit_properties[q] for q in qubits]
    out = Target(num_qubits=len(qubits), qubit_properties=properties, dt=target.dt)
    for name in target.operation_names:
        items = target[name]
        if items is None or None in items:  # defined for all qubits, without errors of its own
            continue
        kept: dict[tuple[int, ...], InstructionProperties | None] = {
            tuple(place[q] for q in where): item
            for where, item in items.items()
            if all(q in place for q in where)
        }
        if kept:
            out.add_instruction(target.operation_from_name(name), kept, name=name)
    return out


def device_noise(target: Target) -> NoiseModel:
    """Return the model of a device's data.

    It has depolarizing and thermal errors of its gates, relaxation while it idles in a delay, and readout
    errors.
    """
    from qiskit_aer.noise import NoiseModel

    # Aer reads noise from devices only, and no more of them than this.
    device = SimpleNamespace(
        version=2, target=target, operation_names=list(target.operation_names), dt=target.dt
    )
    return NoiseModel.from_backend(device)


def readout_confusion(model: NoiseModel | None, qubits: tuple[int, ...]) -> Tensor:
    """Return A (n, 2, 2) of the named qubits: the model's readout errors."""
    errors = [] if model is None else model.to_dict()["errors"]
    everywhere = torch.eye(2, dtype=torch.float64)
    local: dict[int, Tensor] = {}
    for error in errors:
        if error["type"] == "roerror":
            confusion = torch.tensor(error["probabilities"], dtype=torch.float64).T
            local |= {qubit: confusion for (qubit,) in error.get("gate_qubits", [])}
            everywhere = everywhere if "gate_qubits" in error else confusion
    return torch.stack([local.get(qubit, everywhere) for qubit in qubits])

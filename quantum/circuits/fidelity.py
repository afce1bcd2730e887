"""What a circuit loses on a device: the product of its gates' success probabilities.

A rough guide (errors are taken as independent and fatal, idling and readout are left out), yet the one
that device data allows before anything is run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # imported only where they are used: it takes seconds
    from qiskit.circuit import CircuitInstruction, QuantumCircuit
    from qiskit.transpiler import InstructionProperties, Target


@dataclass(frozen=True)
class CircuitEstimate:
    """One circuit on one device, after transpilation."""

    fidelity: float
    two_qubit_gates: int
    depth: int  # without frame changes, which take no time
    seconds: float  # one run of the gates and the measurement


def estimate(circuit: QuantumCircuit, target: Target) -> CircuitEstimate:
    """Return all figures of a transpiled circuit."""
    gates = circuit.size(lambda item: len(item.qubits) == 2 and item.operation.name != "barrier")
    depth = circuit.depth(lambda item: item.operation.name not in ("rz", "barrier", "measure"))
    return CircuitEstimate(estimated_fidelity(circuit, target), gates, depth, duration(circuit, target))


def estimated_fidelity(circuit: QuantumCircuit, target: Target) -> float:
    """Return Π (1 − error) over the gates of a transpiled circuit; gates without data count as perfect."""
    fidelity = 1.0
    for item in circuit.data:
        data = _device_data(circuit, item, target)
        if item.operation.name != "measure" and data is not None and data.error is not None:
            fidelity *= 1.0 - min(float(data.error), 1.0)
    return fidelity


def duration(circuit: QuantumCircuit, target: Target) -> float:
    """Return seconds until the end of the last measurement, each gate as early as it can."""
    free = [0.0] * circuit.num_qubits  # when each qubit is free again
    for item in circuit.data:
        where = [circuit.find_bit(qubit).index for qubit in item.qubits]
        data = _device_data(circuit, item, target)
        length = 0.0 if data is None or data.duration is None else float(data.duration)
        end = max(free[q] for q in where) + length
        for q in where:
            free[q] = end
    return max(free)


def _device_data(
    circuit: QuantumCircuit, item: CircuitInstruction, target: Target
) -> InstructionProperties | None:
    """Return what the device's data say of one gate on its qubits, if they do."""
    name = item.operation.name
    known = target[name] if name in target.operation_names else None
    return known.get(tuple(circuit.find_bit(qubit).index for qubit in item.qubits)) if known else None

"""What a circuit loses on a device: the product of its gates' success probabilities.

A rough guide (errors are taken as independent and fatal, idling and readout are left out), yet the one
that device data allows before anything is run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # imported only where they are used: it takes seconds
    from qiskit.circuit import QuantumCircuit
    from qiskit.transpiler import Target


@dataclass(frozen=True)
class CircuitEstimate:
    """One circuit on one device, after transpilation."""

    fidelity: float
    two_qubit_gates: int
    depth: int  # without frame changes, which take no time
    seconds: float  # one run of the gates and the measurement


def estimate(circuit: QuantumCircuit, target: Target) -> CircuitEstimate:
    """All figures of a transpiled circuit."""
    return CircuitEstimate(
        estimated_fidelity(circuit, target),
        two_qubit_gates(circuit),
        depth(circuit),
        duration(circuit, target),
    )


def estimated_fidelity(circuit: QuantumCircuit, target: Target) -> float:
    """Π (1 − error) over the gates of a transpiled circuit; gates without data count as perfect."""
    fidelity = 1.0
    for item in circuit.data:
        name = item.operation.name
        if name in ("measure", "barrier") or name not in target.operation_names:
            continue
        where = tuple(circuit.find_bit(qubit).index for qubit in item.qubits)
        data = target[name].get(where) if target[name] else None
        if data is not None and data.error is not None:
            fidelity *= 1.0 - min(float(data.error), 1.0)
    return fidelity


def two_qubit_gates(circuit: QuantumCircuit) -> int:
    """Gates on two qubits in a transpiled circuit."""
    return sum(len(item.qubits) == 2 and item.operation.name != "barrier" for item in circuit.data)


def depth(circuit: QuantumCircuit) -> int:
    """Layers of gates, those of frame changes (RZ) left out: they take no time."""
    return circuit.depth(lambda item: item.operation.name not in ("rz", "barrier", "measure"))


def duration(circuit: QuantumCircuit, target: Target) -> float:
    """Seconds from the first gate to the end of the last measurement, each gate as early as it can."""
    free = [0.0] * circuit.num_qubits  # when each qubit is free again
    for item in circuit.data:
        where = tuple(circuit.find_bit(qubit).index for qubit in item.qubits)
        name = item.operation.name
        known = target[name] if name in target.operation_names else None
        data = known.get(where) if known else None
        length = 0.0 if data is None or data.duration is None else float(data.duration)
        end = max(free[q] for q in where) + length
        for q in where:
            free[q] = end
    return max(free)

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
    """Return all figures of a transpiled circuit."""
    from qiskit.exceptions import QiskitError

    depth = circuit.depth(lambda item: item.operation.name not in ("rz", "barrier", "measure"))
    try:
        seconds = float(circuit.estimate_duration(target))
    except QiskitError:  # the data of some old devices have no durations
        seconds = 0.0
    fidelity = estimated_fidelity(circuit, target)
    return CircuitEstimate(fidelity, circuit.num_nonlocal_gates(), depth, seconds)


def estimated_fidelity(circuit: QuantumCircuit, target: Target) -> float:
    """Return Π (1 − error) over the gates of a transpiled circuit; gates without data count as perfect."""
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

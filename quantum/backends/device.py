"""Named devices: fakes that IBM ships with the data of real ones, and layouts chosen on them."""

from __future__ import annotations

import difflib
import functools
from typing import TYPE_CHECKING, Any

from qdreamer.quantum.circuits.fidelity import estimated_fidelity

if TYPE_CHECKING:  # imported only where it is used: it takes seconds
    from qiskit.circuit import QuantumCircuit

LAYOUTS = 4  # tried per circuit: the best of them counts


def is_fake(name: str) -> bool:
    """Whether a device's name is that of a fake one, as FakeGuadalupeV2 or fake_guadalupe."""
    return name.lower().startswith("fake")


@functools.cache
def fake_device(name: str) -> Any:
    """The fake device (a Qiskit `BackendV2`). Raises ValueError for an unknown name."""
    from qiskit_ibm_runtime import fake_provider

    names = [n for n in dir(fake_provider) if n.startswith("Fake") and not n.startswith("FakeProvider")]
    plain = {_plain(n): n for n in sorted(names, key=lambda n: n.endswith("V2"))}
    if _plain(name) not in plain:
        near = difflib.get_close_matches(_plain(name), plain, n=1)
        hint = f" (did you mean {plain[near[0]]}?)" if near else ", as FakeGuadalupeV2"
        raise ValueError(f"there is no fake device {name}{hint}")
    return getattr(fake_provider, plain[_plain(name)])()


def _plain(name: str) -> str:
    return name.lower().replace("_", "").removesuffix("v2")


def transpile(circuit: QuantumCircuit, device: Any, level: int, layouts: int = LAYOUTS) -> QuantumCircuit:
    """The circuit as the device runs it: of a few layouts, the one with the highest estimated fidelity.

    Raises ValueError if the device has too few qubits.
    """
    from qiskit.transpiler import generate_preset_pass_manager

    if circuit.num_qubits > device.num_qubits:
        raise ValueError(
            f"{device.name} has {device.num_qubits} qubits, the circuit {circuit.num_qubits}: "
            "choose a larger device"
        )
    best: tuple[float, QuantumCircuit] | None = None
    for seed in range(layouts):
        manager = generate_preset_pass_manager(level, backend=device, seed_transpiler=seed)
        candidate = manager.run(circuit)
        fidelity = estimated_fidelity(candidate, device.target)
        if best is None or fidelity > best[0]:
            best = fidelity, candidate
    assert best is not None
    return best[1]


def active_qubits(circuit: QuantumCircuit) -> tuple[int, ...]:
    """Physical qubits that any gate or measurement touches, rising."""
    return tuple(
        sorted(
            {
                circuit.find_bit(qubit).index
                for item in circuit.data
                if item.operation.name != "barrier"
                for qubit in item.qubits
            }
        )
    )


def compact(circuit: QuantumCircuit, qubits: tuple[int, ...]) -> QuantumCircuit:
    """The circuit on `qubits` alone, which become 0, 1, …"""
    from qiskit.circuit import QuantumCircuit

    place = {qubit: k for k, qubit in enumerate(qubits)}
    out = QuantumCircuit(len(qubits))
    for register in circuit.cregs:
        out.add_register(register)
    for item in circuit.data:
        if item.operation.name != "barrier":
            where = [place[circuit.find_bit(qubit).index] for qubit in item.qubits]
            bits = [circuit.find_bit(bit).index for bit in item.clbits]
            out.append(item.operation, where, bits)
    return out

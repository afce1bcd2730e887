"""Named devices: fakes that IBM ships with the data of real ones, and layouts chosen on them."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from qdreamer.configs.schema import closest, did_you_mean
from qdreamer.quantum.backends.qiskit_sampler import Prepared
from qdreamer.quantum.circuits.fidelity import estimated_fidelity
from qdreamer.quantum.noise.noise import device_noise, reduced_target

if TYPE_CHECKING:  # imported only where they are used: it takes seconds
    from qiskit.circuit import QuantumCircuit
    from qiskit.transpiler import Target
    from qiskit_aer.noise import NoiseModel

LAYOUTS = 4  # tried per circuit: the best of them counts


def is_fake(name: str) -> bool:
    """Return True for the name of a fake device, as FakeGuadalupeV2 or fake_guadalupe."""
    return name.lower().startswith("fake")


@functools.cache
def fake_device(name: str) -> Any:
    """Return the fake device (a Qiskit `BackendV2`). Raises ValueError for an unknown name."""
    from qiskit_ibm_runtime import fake_provider

    names = [n for n in dir(fake_provider) if n.startswith("Fake") and not n.startswith("FakeProvider")]
    plain = {_plain(n): n for n in sorted(names, key=lambda n: n.endswith("V2"))}
    if _plain(name) not in plain:
        near = closest(_plain(name), plain, cutoff=0.6)
        hint = ", as FakeGuadalupeV2" if near is None else did_you_mean(plain[near])
        raise ValueError(f"there is no fake device {name}{hint}")
    return getattr(fake_provider, plain[_plain(name)])()


def _plain(name: str) -> str:
    return name.lower().replace("_", "").removesuffix("v2")


def transpile(circuit: QuantumCircuit, device: Any, level: int, layouts: int = LAYOUTS) -> QuantumCircuit:
    """Return the circuit as the device runs it, in the layout of a few with the highest estimated fidelity.

    Raises ValueError if the device has too few qubits.
    """
    from qiskit.transpiler import generate_preset_pass_manager

    if circuit.num_qubits > device.num_qubits:
        raise ValueError(
            f"{device.name} has {device.num_qubits} qubits, the circuit {circuit.num_qubits}: "
            "choose a larger device"
        )
    managers = [generate_preset_pass_manager(level, device, seed_transpiler=k) for k in range(layouts)]
    candidates = [manager.run(circuit) for manager in managers]
    return max(candidates, key=lambda candidate: estimated_fidelity(candidate, device.target))


def active_qubits(circuit: QuantumCircuit) -> tuple[int, ...]:
    """Return the physical qubits that any gate or measurement touches, rising."""
    gates = [item for item in circuit.data if item.operation.name != "barrier"]
    return tuple(sorted({circuit.find_bit(qubit).index for item in gates for qubit in item.qubits}))


def compact(circuit: QuantumCircuit, qubits: tuple[int, ...]) -> QuantumCircuit:
    """Return the circuit on `qubits` alone, which become 0, 1, …"""
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


class ReducedDevice:
    """A fake device reduced, circuit by circuit, to the qubits that the circuit touches.

    Counts are those of the whole device's noise model, without its seconds for every run.
    """

    def __init__(self, name: str, level: int) -> None:
        self.device = fake_device(name)
        self._level = level
        self._data: dict[tuple[int, ...], tuple[Target, NoiseModel]] = {}  # by active qubits

    def prepare(self, circuit: QuantumCircuit) -> Prepared:
        transpiled = transpile(circuit, self.device, self._level)
        active = active_qubits(transpiled)
        if active not in self._data:
            target = reduced_target(self.device.target, active)
            self._data[active] = target, device_noise(target)
        return Prepared(compact(transpiled, active), active, *self._data[active])

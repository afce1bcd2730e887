"""A fake device reduced, circuit by circuit, to the qubits that the circuit touches."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

import torch

from qdreamer.quantum.backends.device import active_qubits, compact, fake_device, transpile
from qdreamer.quantum.backends.qiskit_sampler import Prepared
from qdreamer.quantum.noise.noise import device_noise, method_for, reduced_target

if TYPE_CHECKING:  # imported only where they are used: it takes seconds
    from qiskit.circuit import QuantumCircuit
    from qiskit.transpiler import Target
    from qiskit_aer import AerSimulator
    from qiskit_aer.noise import NoiseModel


class ReducedDevice:
    """Prepares circuits for a fake device; keeps the target and noise model of each set of qubits.

    Counts are those of the whole device's noise model, without its seconds for every run.
    """

    def __init__(self, name: str, level: int) -> None:
        self.device = fake_device(name)
        self._level = level
        self._targets: dict[Hashable, Target] = {}
        self._models: dict[Hashable, NoiseModel] = {}

    def prepare(self, circuit: QuantumCircuit) -> Prepared:
        transpiled = transpile(circuit, self.device, self._level)
        active = active_qubits(transpiled)
        if active not in self._models:
            self._targets[active] = reduced_target(self.device.target, active)
            self._models[active] = device_noise(self._targets[active])
        return Prepared(compact(transpiled, active), active, self._targets[active])

    def target(self, key: Hashable) -> Target:
        return self._targets[key]

    def noise(self, key: Hashable) -> NoiseModel:
        return self._models[key]

    def simulator(self, key: Hashable, method: str) -> AerSimulator:
        """Aer with the qubits' gates, durations and errors."""
        from qiskit_aer import AerSimulator

        target = self._targets[key]
        method = method_for(method, True, target.num_qubits)
        return AerSimulator(
            noise_model=self._models[key],
            target=target,
            method=method,
            max_parallel_threads=torch.get_num_threads(),
        )

"""Qiskit Aer as an engine for `QiskitSampler`: exact, with configured noise, or with a device's.

One seeded sampler of Aer repeats its draws with every run, so each job gets a new one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from qdreamer.configs.schema import settings
from qdreamer.quantum.backends.device import ReducedDevice
from qdreamer.quantum.backends.qiskit_sampler import Prepared, QiskitSampler, measured_qubits
from qdreamer.quantum.circuits.backend import BACKENDS, Task
from qdreamer.quantum.config import QuantumConfig
from qdreamer.quantum.noise.noise import configured_noise, readout_confusion

if TYPE_CHECKING:  # imported only where they are used: it takes seconds
    from qiskit.circuit import QuantumCircuit
    from qiskit_aer.primitives import SamplerV2


@settings
class AerConfig(QuantumConfig):
    takes = frozenset()


@settings
class NoisyAerConfig(QuantumConfig):
    """With configured channels, or with a fake device's noise."""

    takes = frozenset({"device", "noise", "mitigation"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.device is not None and not self.noise.is_noiseless:
            raise ValueError(
                f"quantum.device={self.device} brings its own noise: leave out quantum.noise, or the device"
            )


class AerEngine:
    """Circuits as written, with the configured noise; or as a fake device runs them, with its noise."""

    def __init__(self, config: QuantumConfig) -> None:
        self._method = config.method
        self._noise = None if config.noise.is_noiseless else configured_noise(config.noise)
        device = config.device
        self._device = None if device is None else ReducedDevice(device, config.optimization_level)

    def prepare(self, circuit: QuantumCircuit) -> Prepared:
        if self._device is not None:
            return self._device.prepare(circuit)
        return Prepared(circuit, circuit.num_qubits, noise=self._noise)

    def sampler(self, prepared: Prepared, seed: int) -> SamplerV2:
        from qiskit_aer.primitives import SamplerV2

        options = {"noise_model": prepared.noise, "method": prepared.method(self._method)}
        options["max_parallel_threads"] = torch.get_num_threads()
        return SamplerV2(seed=seed, options={"backend_options": options})


@BACKENDS.register("aer", AerConfig)
@BACKENDS.register("aer_noisy", NoisyAerConfig)
class Aer(QiskitSampler):
    """`quantum=aer` and `quantum=aer_noisy`; also gives exact probabilities, noise included."""

    def __init__(self, config: QuantumConfig) -> None:
        import qiskit_aer.primitives  # noqa: F401 - here, as in QiskitSampler

        super().__init__(config.name, AerEngine(config), config.mitigation)

    def probabilities(self, task: Task) -> Tensor:
        """Return exact P(x) (R, 2^n) of a task; with noise by density matrices."""
        from qiskit_aer import AerSimulator

        prepared = self.prepared(task.circuit())
        method = "statevector" if prepared.noise is None else "density_matrix"
        simulator = AerSimulator(method=method, noise_model=prepared.noise, max_parallel_threads=1)
        qubits = measured_qubits(prepared.circuit)
        circuit = prepared.circuit.remove_final_measurements(inplace=False)
        circuit.save_probabilities(list(qubits))
        values = task.values().numpy()
        binds = {p: values[:, p.index].tolist() for p in prepared.circuit.parameters}
        result = simulator.run(circuit, parameter_binds=[binds]).result()
        out = torch.from_numpy(np.stack([result.data(row)["probabilities"] for row in range(len(values))]))
        rows = len(out)
        for bit, matrix in enumerate(readout_confusion(prepared.noise, qubits)):
            out = torch.einsum("ab,rhbl->rhal", matrix, out.view(rows, -1, 2, 2**bit)).reshape(rows, -1)
        return out

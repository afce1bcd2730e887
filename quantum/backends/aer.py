"""Qiskit Aer as an engine for `QiskitSampler`: exact, with configured noise, or with a device's.

One seeded sampler of Aer repeats its draws with every run, so each job gets a new one.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from qdreamer.configs.schema import settings
from qdreamer.quantum.backends.fake import ReducedDevice
from qdreamer.quantum.backends.qiskit_sampler import Prepared, QiskitSampler, measured_qubits
from qdreamer.quantum.circuits.backend import BACKENDS, Task
from qdreamer.quantum.config import QuantumConfig
from qdreamer.quantum.noise.noise import configured_confusion, configured_noise, device_confusion, method_for

if TYPE_CHECKING:  # imported only where they are used: it takes seconds
    from qiskit.circuit import QuantumCircuit
    from qiskit_aer.noise import NoiseModel
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
    """Circuits as written; with configured noise if the config has some."""

    def __init__(self, config: QuantumConfig) -> None:
        self._config = config
        self._noise = None if config.noise.is_noiseless else configured_noise(config.noise)

    def prepare(self, circuit: QuantumCircuit) -> Prepared:
        return Prepared(circuit, circuit.num_qubits)

    def qubits(self, key: Hashable) -> int:
        """Qubits of the circuits with this key."""
        assert isinstance(key, int)
        return key

    def noise(self, key: Hashable) -> NoiseModel | None:
        return self._noise

    def confusion(self, prepared: Prepared) -> Tensor:
        """A (n, 2, 2) of the measured qubits."""
        return configured_confusion(self._config.noise, len(measured_qubits(prepared.circuit)))

    def options(self, key: Hashable) -> dict[str, Any]:
        noise = self.noise(key)
        options: dict[str, Any] = {
            "method": method_for(self._config.method, noise is not None, self.qubits(key)),
            "max_parallel_threads": torch.get_num_threads(),
        }
        return options if noise is None else options | {"noise_model": noise}

    def sampler(self, key: Hashable, seed: int) -> SamplerV2:
        from qiskit_aer.primitives import SamplerV2

        return SamplerV2(seed=seed, options={"backend_options": self.options(key)})


class DeviceNoiseEngine(AerEngine):
    """Circuits as a fake device runs them, with the errors of the qubits that they touch."""

    def __init__(self, config: QuantumConfig) -> None:
        super().__init__(config)
        assert config.device is not None
        self._reduced = ReducedDevice(config.device, config.optimization_level)

    def prepare(self, circuit: QuantumCircuit) -> Prepared:
        return self._reduced.prepare(circuit)

    def qubits(self, key: Hashable) -> int:
        return self._reduced.target(key).num_qubits

    def noise(self, key: Hashable) -> NoiseModel:
        return self._reduced.noise(key)

    def confusion(self, prepared: Prepared) -> Tensor:
        return device_confusion(self._reduced.target(prepared.key), measured_qubits(prepared.circuit))


@BACKENDS.register("aer", AerConfig)
@BACKENDS.register("aer_noisy", NoisyAerConfig)
class Aer(QiskitSampler):
    """`quantum=aer` and `quantum=aer_noisy`; also gives exact probabilities, noise included."""

    def __init__(self, config: QuantumConfig) -> None:
        import qiskit_aer.primitives  # noqa: F401 - here, as in QiskitSampler

        self._aer = AerEngine(config) if config.device is None else DeviceNoiseEngine(config)
        super().__init__(config.name, self._aer, config.mitigation)

    def probabilities(self, tasks: Sequence[Task]) -> tuple[Tensor, ...]:
        """Exact P(x) (R, 2^n) of each task; with noise by density matrices."""
        return tuple(self._exact(task) for task in tasks)

    def _exact(self, task: Task) -> Tensor:
        from qiskit_aer import AerSimulator

        prepared = self.prepared(task.circuit())
        noise = self._aer.noise(prepared.key)
        method = "statevector" if noise is None else "density_matrix"
        simulator = AerSimulator(method=method, noise_model=noise, max_parallel_threads=1)
        circuit = prepared.circuit.remove_final_measurements(inplace=False)
        circuit.save_probabilities(list(measured_qubits(prepared.circuit)))
        values = task.values().numpy()
        binds = {p: values[:, p.index].tolist() for p in prepared.circuit.parameters}
        result = simulator.run(circuit, parameter_binds=[binds]).result()
        out = torch.from_numpy(np.stack([result.data(row)["probabilities"] for row in range(len(values))]))
        rows = len(out)
        for bit, matrix in enumerate(self._aer.confusion(prepared)):
            out = torch.einsum("ab,rhbl->rhal", matrix, out.view(rows, -1, 2, 2**bit)).reshape(rows, -1)
        return out

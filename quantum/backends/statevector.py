"""The backend in this process: exact states, drawn from; no quantum library."""

from collections.abc import Sequence

import torch
from torch import Tensor

from qdreamer.configs.schema import settings
from qdreamer.quantum.circuits.backend import BACKENDS, Task
from qdreamer.quantum.circuits.circuit import statevector
from qdreamer.quantum.circuits.grover_rudolph import AmplitudeTask, descend
from qdreamer.quantum.circuits.sampling import ImmediateBackend, draw, index_to_bits
from qdreamer.quantum.config import QuantumConfig
from qdreamer.quantum.qaoa.ansatz import IsingTask
from qdreamer.quantum.qaoa.simulator import Simulator


@settings
class StatevectorConfig(QuantumConfig):
    takes = frozenset()
    in_process = True
    samples = False


@BACKENDS.register("statevector", StatevectorConfig)
class Statevector(ImmediateBackend):
    """QAOA by its own simulator, amplitudes by descending the tree, the rest gate by gate."""

    name = "statevector"
    in_process = True

    def __init__(self, config: QuantumConfig | None = None) -> None:
        """Nothing of the config matters here."""

    def measure(self, tasks: Sequence[Task], shots: int, seed: int) -> tuple[Tensor, ...]:
        source = torch.Generator().manual_seed(seed)
        return tuple(self._bits(task, shots, source) for task in tasks)

    def _bits(self, task: Task, shots: int, source: torch.Generator) -> Tensor:
        if isinstance(task, IsingTask):
            index = Simulator(task.ising).sample(task.angles, shots, source)
            return index_to_bits(index, task.ising.qubits)
        if isinstance(task, AmplitudeTask):
            index = descend(task.tree, shots, source)
        else:
            index = draw(probabilities(task), shots, source)
        return index_to_bits(index, task.circuit().qubits)


def probabilities(task: Task) -> Tensor:
    """Return exact P(x) (R, 2^n) of a task's measurements."""
    if isinstance(task, IsingTask):
        return Simulator(task.ising).probabilities(task.angles)
    if isinstance(task, AmplitudeTask):
        return task.tree[-1] / task.tree[0]
    return statevector(task.circuit(), task.values()).abs() ** 2

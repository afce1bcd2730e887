"""The backend in this process: exact states, drawn from; no quantum library."""

from collections.abc import Sequence
from time import perf_counter

import torch
from torch import Tensor

from qdreamer.configs.schema import settings
from qdreamer.quantum.circuits.backend import (
    BACKENDS,
    FinishedJob,
    Job,
    JobLostError,
    Measurement,
    Task,
    Usage,
    check_request,
    cost,
)
from qdreamer.quantum.circuits.circuit import statevector
from qdreamer.quantum.circuits.grover_rudolph import descend
from qdreamer.quantum.circuits.sampling import draw, generator
from qdreamer.quantum.config import QuantumConfig
from qdreamer.quantum.qaoa.ising import index_to_bits
from qdreamer.quantum.qaoa.qaoa import Simulator
from qdreamer.quantum.qaoa.tasks import AmplitudeTask, IsingTask


def probabilities(task: Task) -> Tensor:
    """Exact P(x) (R, 2^n) of a task's measurements: by its own short cut, else gate by gate."""
    known = task.probabilities()
    return statevector(task.circuit(), task.values()).abs() ** 2 if known is None else known


@settings
class StatevectorConfig(QuantumConfig):
    takes = frozenset()
    in_process = True
    samples = False


@BACKENDS.register("statevector", StatevectorConfig)
class Statevector:
    """Answers at once: QAOA by `qaoa.qaoa`, amplitudes by descending the tree, the rest gate by gate."""

    name = "statevector"
    in_process = True
    remote = False

    def __init__(self, config: QuantumConfig | None = None) -> None:
        """Nothing of the config matters here."""

    def submit(self, tasks: Sequence[Task], shots: int, seed: int) -> Job:
        check_request(tasks, shots)
        begin = perf_counter()
        source = generator(seed)
        bits = tuple(self._bits(task, shots, source) for task in tasks)
        seconds = perf_counter() - begin
        usage = cost(tasks, shots) + Usage(seconds=seconds)
        return FinishedJob("", Measurement(bits, usage, (None,) * len(bits)))

    def collect(self, job_id: str) -> Job:
        raise JobLostError("jobs of quantum=statevector end with their process")

    def probabilities(self, tasks: Sequence[Task]) -> tuple[Tensor, ...]:
        """Exact P(x) (R, 2^n) of each task."""
        return tuple(probabilities(task) for task in tasks)

    def _bits(self, task: Task, shots: int, source: torch.Generator) -> Tensor:
        if isinstance(task, AmplitudeTask):
            index = descend(task.tree, shots, source)
        elif isinstance(task, IsingTask):
            index = Simulator(task.ising).sample(task.angles, shots, source)
        else:
            index = draw(probabilities(task), shots, source)
        return index_to_bits(index, task.circuit().qubits)

"""Quantum replay: prioritized replay whose tree is measured as a quantum state, here or by circuits."""

import math
from typing import Any, Self

import torch
from pydantic import Field

from qdreamer.agents.replay.config import SAMPLERS, PriorityConfig
from qdreamer.agents.replay.pool import ShotPool
from qdreamer.agents.replay.prioritized import PrioritizedSampler
from qdreamer.agents.replay.sum_tree import TreeDistribution
from qdreamer.configs.schema import Bool, Float, Int, settings
from qdreamer.quantum.backends.factory import open_backend
from qdreamer.quantum.circuits.backend import Backend, run
from qdreamer.quantum.circuits.grover_rudolph import AmplitudeTask
from qdreamer.quantum.config import QuantumConfig
from qdreamer.quantum.jobs.access import CircuitAccess
from qdreamer.quantum.jobs.dry_run import Planned

DEVICE_QUBITS = 5  # state loading costs 2^n − 2 CX, and real devices carry some thirty


@settings
class QuantumReplayConfig(PriorityConfig):
    # Without a floor, blocks that no shot hit are out of reach, and the weights are no longer exact.
    floor: Float = Field(ge=1e-3, lt=1.0)  # share of uniform draws
    # The rest is for circuits; quantum=statevector measures the whole tree.
    qubits: Int = Field(ge=1, le=12)  # n: 2^n blocks, 2^n − 2 CX
    shots: Int = Field(ge=1, le=10_000_000)  # of a job
    reuse: Float = Field(gt=0.0)  # draws from each shot before the next job
    wait: Bool  # training waits for every job: reproducible on simulators

    def sends_jobs(self, quantum: QuantumConfig) -> bool:
        return not quantum.in_process

    def check(self, root: Any) -> None:
        """A real device must be able to load the amplitudes."""
        super().check(root)
        if root.quantum.remote and not root.quantum.force and self.qubits > DEVICE_QUBITS:
            raise ValueError(
                f"replay.qubits={self.qubits} needs {2**self.qubits - 2} CX, more than real devices "
                f"carry: use replay.qubits={DEVICE_QUBITS}, or quantum.force=true"
            )

    def check_here(self, root: Any) -> None:
        open_backend(root.quantum, lambda text: None)

    def planned(self, root: Any, backend: Backend) -> list[Planned]:
        if not self.sends_jobs(root.quantum):
            return []
        draws = (
            self.times
            * max(root.steps - root.train.begin, 0)
            * root.train.replay_ratio
            / root.train.batch_length
        )
        doublings = math.log2(max(min(root.steps, self.capacity) / max(root.train.prefill, 1), 1.0))
        calls = 1 + int(draws / (self.reuse * self.shots)) + int(doublings)  # used up, outgrown
        return [Planned("replay", AmplitudeTask(torch.ones(1, 2**self.qubits)), self.shots, calls)]


@SAMPLERS.register("quantum", QuantumReplayConfig)
class QuantumSampler(PrioritizedSampler):
    """A prioritized sampler that draws from the tree as a quantum state."""

    @classmethod
    def make(cls, config: Any, num_envs: int, length: int, seed: int, circuits: CircuitAccess) -> Self:
        priorities = config.make_priorities(num_envs)
        proposal = TreeDistribution(priorities.tree)
        if config.sends_jobs(circuits.config):
            backend = circuits.backend("replay")
            warm_up(backend, config.qubits)
            queue = circuits.queue("replay", backend)
            proposal = ShotPool(
                priorities.tree, config.qubits, config.shots, config.reuse, queue, seed, config.wait
            )
        return cls(priorities, proposal, config.beta, config.annealing, config.floor, seed)


def warm_up(backend: Backend, qubits: int) -> None:
    """Transpile the circuit before training, and see that the backend runs it. Raises BackendError.

    Qiskit's transpiler holds Python's lock for seconds: in the first job's thread it would stop the
    learner. Not for services, where a job has its price.
    """
    if not backend.remote:
        run(backend, [AmplitudeTask(torch.ones(1, 2**qubits))], 1, 0)

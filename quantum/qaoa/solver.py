"""What looks for low energies of an Ising problem: QAOA, and the controls that it must be compared with."""

from typing import Literal, NamedTuple, Protocol

import torch

from qdreamer.configs.registry import Registry
from qdreamer.quantum.circuits.backend import Backend, Measurement
from qdreamer.quantum.config import QuantumConfig
from qdreamer.quantum.qaoa.ansatz import IsingTask
from qdreamer.quantum.qaoa.ising import Ising, Solution
from qdreamer.quantum.qaoa.sparsify import Fit

AngleChoice = Literal["fixed", "ramp", "warm", "optimized"]


class SolverSetup(NamedTuple):
    """What solvers are made from; each takes what it needs."""

    backend: Backend  # of solvers that run circuits
    quantum: QuantumConfig
    layers: int = 3  # of QAOA
    angles: AngleChoice = "fixed"
    bits_per_block: int = 1


class Solver(Protocol):
    """Looks for low energies."""

    circuits: bool  # it is a `CircuitSolver`, whose work a job queue runs
    max_qubits: int | None  # of the largest problems that it takes; None for any

    @classmethod
    def make(cls, setup: SolverSetup) -> "Solver": ...

    def solve(self, ising: Ising, shots: int, generator: torch.Generator) -> Solution:
        """Find the best of about `shots` samples. Raises ValueError for problems it cannot take."""


class CircuitSolver(Solver, Protocol):
    """A solver whose work is a circuit's."""

    def task(self, ising: Ising, generator: torch.Generator) -> IsingTask:
        """Return what to submit for the problem, by hand or through a job queue."""

    def finish(self, ising: Ising, measurement: Measurement) -> Solution:
        """Return the solution from the task's samples, judged by the whole problem."""

    def fit(self, ising: Ising) -> Fit:
        """Return how problems of this size are cut to the backend's device. Raises DeviceLimitError."""


SOLVERS: Registry[type[Solver]] = Registry("solvers", "qdreamer.quantum.qaoa")

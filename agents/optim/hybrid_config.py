"""Settings of the hybrid optimizer, and the search they ask for: a solver at once, or QAOA by a job queue."""

from typing import Annotated, Any, cast

import torch
from pydantic import Field

from qdreamer.agents.optim.direction_search import DirectionSearch, QueueSearch, SolverSearch
from qdreamer.agents.optim.laprop import LaPropConfig
from qdreamer.agents.optim.parameter_groups import PARTITIONS
from qdreamer.agents.optim.quadratic_model import Levels
from qdreamer.configs.schema import LONGEST, Bool, Float, Int, one_of, settings
from qdreamer.quantum.backends.factory import open_backend
from qdreamer.quantum.backends.statevector import Statevector
from qdreamer.quantum.circuits.backend import Backend, device_estimate
from qdreamer.quantum.config import QuantumConfig
from qdreamer.quantum.jobs.access import CircuitAccess, warm_up
from qdreamer.quantum.jobs.dry_run import Planned
from qdreamer.quantum.qaoa.ansatz import SK, IsingTask
from qdreamer.quantum.qaoa.ising import Ising
from qdreamer.quantum.qaoa.solver import SOLVERS, AngleChoice, CircuitSolver, Solver, SolverSetup


@settings
class HybridConfig(LaPropConfig):
    """LaProp, and a search for a better direction of the world model's step."""

    every: Int = Field(ge=1)  # K, updates
    solver: Annotated[str, SOLVERS]
    num_qubits: Int = Field(ge=1, le=24)
    p_layers: Int = Field(ge=1, le=100)
    angles: AngleChoice
    levels: tuple[Float, ...]  # multipliers that a block may take: two, or four of two qubits a block
    blocks: Annotated[str, one_of(lambda: PARTITIONS)]
    slice: Int = Field(ge=1, le=LONGEST)  # sequences of the batch that curvature is measured on
    fresh: Int = Field(ge=1, le=LONGEST)  # sequences that a step is checked on
    epsilon: Float = Field(gt=0.0)  # length of the differences, in proposed steps
    reuse: Bool  # apply the last accepted multipliers between searches, unchecked
    patience: Int = Field(ge=0)  # updates after which a job's result is too late
    wait: Bool  # training waits for every job: reproducible on simulators
    differences: Int = Field(default=1, ge=1, le=24)  # blocks whose curvature a search measures, in turn
    steer: Float = Field(default=0.0, ge=0.0, le=1.0)  # how far multipliers steer learning rates; 0: none
    steer_bound: Float = Field(default=30.0, ge=1.0)  # the largest factor of a learning rate

    def __post_init__(self) -> None:
        try:
            levels = Levels.of(self.levels)
        except ValueError as error:
            raise ValueError(f"optimizer.{error}") from error
        if self.num_qubits % levels.bits:
            raise ValueError(
                f"optimizer.num_qubits={self.num_qubits} must be a multiple of {levels.bits}: "
                f"{len(self.levels)} levels take {levels.bits} qubits a block"
            )
        if self.steer and min(self.levels) <= 0.0:
            raise ValueError(
                f"optimizer.steer={self.steer:g} multiplies learning rates by optimizer.levels, which must "
                "all be above 0, as [0.5,1.5]"
            )
        if self.steer and self.reuse:
            raise ValueError(
                "optimizer.steer and optimizer.reuse would each apply the same multipliers: take one"
            )
        most = SOLVERS[self.solver].part.max_qubits
        if most is not None and self.num_qubits > most:
            raise ValueError(
                f"optimizer.num_qubits={self.num_qubits} is too many for optimizer.solver={self.solver}: "
                f"use {most}, or another solver"
            )
        if self.angles != "ramp" and self.p_layers > len(SK):
            raise ValueError(
                f"optimizer.p_layers={self.p_layers} needs optimizer.angles=ramp: "
                f"fixed angles are known up to {len(SK)} layers"
            )

    def check_here(self, root: Any) -> None:
        if self.runs_circuits():
            backend = open_backend(root.quantum, lambda text: None)
            self.circuit_solver(backend, root.quantum).fit(dense(self.num_qubits))

    def planned(self, root: Any, backend: Backend) -> list[Planned]:
        if not self.runs_circuits():
            return []
        train, quantum = root.train, root.quantum
        updates = max(root.steps - train.begin, 0) * train.replay_ratio
        searches = int(updates / (train.batch_size * train.batch_length) / self.every)
        task = self.circuit_solver(backend, quantum).task(dense(self.num_qubits), torch.Generator())
        return [Planned("optimizer", task, quantum.shots, searches)]

    def runs_circuits(self) -> bool:
        return SOLVERS[self.solver].part.circuits

    def make_solver(self, backend: Backend, quantum: QuantumConfig) -> Solver:
        bits = Levels.of(self.levels).bits
        setup = SolverSetup(backend, quantum, bits_per_block=bits)
        if self.runs_circuits():
            setup = SolverSetup(backend, quantum, self.p_layers, self.angles, bits)
        return SOLVERS[self.solver].part.make(setup)

    def circuit_solver(self, backend: Backend, quantum: QuantumConfig) -> CircuitSolver:
        return cast(CircuitSolver, self.make_solver(backend, quantum))


def make_search(config: HybridConfig, qubits: int, circuits: CircuitAccess) -> DirectionSearch:
    """Open a search by the configured solver, for problems of so many bits.

    Circuits of a backend outside of this process go through a job queue.
    """
    quantum = circuits.config
    if not config.runs_circuits():
        return SolverSearch(config.make_solver(Statevector(), quantum), quantum.shots)
    backend = circuits.backend("optimizer")
    solver = config.circuit_solver(backend, quantum)
    example = solver.task(dense(qubits), torch.Generator())
    if backend.in_process:
        search = SolverSearch(solver, quantum.shots, facts(backend, example))
        circuits.budget.accounts.append(search)
        return search
    warm_up(backend, example, quantum.timeout)
    queue = circuits.queue("optimizer", backend)
    return QueueSearch(solver, queue, quantum.shots, config.patience, facts(backend, example), config.wait)


def dense(qubits: int) -> Ising:
    """Return a problem of the size of a search's, with all couplings."""
    return Ising(torch.ones(qubits), torch.ones(qubits, qubits).triu(1))


def facts(backend: Backend, task: IsingTask) -> dict[str, float]:
    """Return figures of the task's circuit for the log: as transpiled for a device, else as written."""
    circuit = task.circuit()
    figures = device_estimate(backend, circuit) or circuit
    return {
        "qubits": float(circuit.qubits),
        "circuit_depth": float(figures.depth),
        "two_qubit_gates": float(figures.two_qubit_gates),
    }

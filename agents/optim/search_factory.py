"""The search that the hybrid optimizer's settings ask for: a solver at once, or QAOA through a job queue."""

from typing import NamedTuple, cast

import torch

from qdreamer.agents.optim.direction_search import DirectionSearch, SolverSearch
from qdreamer.agents.optim.queue_search import QueueSearch
from qdreamer.quantum.backends.factory import open_backend
from qdreamer.quantum.backends.statevector import Statevector
from qdreamer.quantum.circuits.backend import Backend
from qdreamer.quantum.circuits.circuit import Circuit
from qdreamer.quantum.config import QuantumConfig
from qdreamer.quantum.jobs.access import CircuitAccess, warm_up
from qdreamer.quantum.jobs.dry_run import Planned, costs
from qdreamer.quantum.qaoa.ansatz import IsingTask
from qdreamer.quantum.qaoa.ising import Ising
from qdreamer.quantum.qaoa.solver import SOLVERS, AngleChoice, CircuitSolver, Solver, SolverSetup


class SearchSettings(NamedTuple):
    """Keys of the optimizer's section that concern the search."""

    solver: str
    layers: int  # of QAOA
    angles: AngleChoice
    bits_per_block: int
    patience: int  # updates after which a job's result is too late
    wait: bool

    def make(self, backend: Backend, quantum: QuantumConfig) -> Solver:
        setup = SolverSetup(backend, quantum, self.layers, self.angles, self.bits_per_block)
        return SOLVERS[self.solver].part.make(setup)

    @property
    def circuits(self) -> bool:
        """True when circuits are run."""
        return SOLVERS[self.solver].part.circuits


def make_search(settings: SearchSettings, qubits: int, circuits: CircuitAccess) -> DirectionSearch:
    """The solver of problems with so many bits. Circuits of a backend outside of this process go through a
    job queue."""
    quantum = circuits.config
    if not settings.circuits:
        return SolverSearch(settings.make(Statevector(), quantum), quantum.shots)
    backend = circuits.backend("optimizer")
    solver = _circuit_solver(settings, backend, quantum)
    example = solver.task(_dense(qubits), torch.Generator())
    if backend.in_process:
        search = SolverSearch(solver, quantum.shots, facts(backend, example))
        circuits.budget.accounts.append(search)
        return search
    warm_up(backend, example, quantum.timeout)
    queue = circuits.queue("optimizer", backend)
    return QueueSearch(
        solver, queue, quantum.shots, settings.patience, facts(backend, example), settings.wait
    )


def check(settings: SearchSettings, qubits: int, quantum: QuantumConfig) -> None:
    """Raises ValueError or CredentialsError if the circuits of a run cannot be run."""
    if settings.circuits:
        backend = open_backend(quantum, lambda text: None)
        _circuit_solver(settings, backend, quantum).fit(_dense(qubits))


def planned(
    settings: SearchSettings, qubits: int, quantum: QuantumConfig, backend: Backend, searches: int
) -> list[Planned]:
    """The jobs that so many searches submit, cut to the device as they will be, for a dry run."""
    if not settings.circuits:
        return []
    task = _circuit_solver(settings, backend, quantum).task(_dense(qubits), torch.Generator())
    return [Planned("optimizer", task, quantum.shots, searches)]


def _circuit_solver(settings: SearchSettings, backend: Backend, quantum: QuantumConfig) -> CircuitSolver:
    return cast(CircuitSolver, settings.make(backend, quantum))


def _dense(qubits: int) -> Ising:
    """A problem of the size of a search's, with all couplings."""
    return Ising(torch.ones(qubits), torch.ones(qubits, qubits).triu(1))


def facts(backend: Backend, task: IsingTask) -> dict[str, float]:
    """Of the circuit, for the log: as transpiled for a device, else as written."""
    (cost,) = costs(backend, [Planned("search", task, 1, 1)])
    depth = logical_depth(task.circuit()) if cost.depth is None else cost.depth
    return {
        "qubits": float(cost.qubits),
        "circuit_depth": float(depth),
        "two_qubit_gates": float(cost.two_qubit_gates),
    }


def logical_depth(circuit: Circuit) -> int:
    """Layers of gates on disjoint qubits, in the order in which they are written."""
    busy = [0] * circuit.qubits
    for gate in circuit.gates:
        end = 1 + max(busy[q] for q in gate.qubits)
        for q in gate.qubits:
            busy[q] = end
    return max(busy)

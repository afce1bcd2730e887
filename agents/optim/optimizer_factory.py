"""The optimizer that the optimizer section of a config asks for."""

import sys
from pathlib import Path

import torch

from qdreamer.agents.distributed.ranks import SINGLE_PROCESS, SingleProcess
from qdreamer.agents.dreamer import Dreamer
from qdreamer.agents.optim.direction_search import DirectionSearch, QueueSearch, SolverSearch
from qdreamer.agents.optim.hybrid_optimizer import HybridOptimizer
from qdreamer.agents.optim.laprop import LaProp
from qdreamer.agents.optim.optimizer import AgentOptimizer
from qdreamer.agents.optim.optimizer_config import HybridConfig
from qdreamer.agents.optim.parameter_groups import partition
from qdreamer.agents.optim.quadratic_model import Levels
from qdreamer.agents.optim.shared_search import SharedSearch
from qdreamer.agents.randomness import SEARCH, stream_seed
from qdreamer.agents.training.config import Config
from qdreamer.quantum.backends.factory import open_backend
from qdreamer.quantum.backends.statevector import Statevector
from qdreamer.quantum.circuits.backend import Backend, warm_up
from qdreamer.quantum.circuits.circuit import Circuit
from qdreamer.quantum.jobs.budget import Budget
from qdreamer.quantum.jobs.dry_run import Planned, costs
from qdreamer.quantum.jobs.job_queue import JobQueue
from qdreamer.quantum.jobs.pending_job import Limits
from qdreamer.quantum.qaoa.ising import Ising
from qdreamer.quantum.qaoa.solvers import QAOA, make_solver
from qdreamer.quantum.qaoa.tasks import IsingTask


def make_optimizer(
    config: Config,
    agent: Dreamer,
    directory: Path,
    budget: Budget,
    ranks: SingleProcess = SINGLE_PROCESS,
) -> AgentOptimizer:
    """The optimizer called `optimizer.name`, for all trainable parameters; `directory` and `budget` are the
    run's."""
    base = laprop(config, agent)
    settings = config.optimizer
    if not isinstance(settings, HybridConfig):
        return base
    levels = Levels.of(settings.levels)
    blocks = partition(agent.world_model, settings.blocks, settings.num_qubits // levels.bits)
    qubits = len(blocks) * levels.bits
    search: DirectionSearch
    if ranks.size == 1:
        search = make_search(config, qubits, directory, budget)
    else:
        search = SharedSearch(ranks, lambda: make_search(config, qubits, directory, budget))
    seed = stream_seed(SEARCH, config.seed)
    return HybridOptimizer(
        base, blocks, search, levels, settings.every, settings.epsilon, settings.reuse, seed,
        -(-settings.slice // ranks.size), -(-settings.fresh // ranks.size), ranks.mean,
    )  # fmt: skip


def laprop(config: Config, agent: Dreamer) -> LaProp:
    settings = config.optimizer
    return LaProp(
        agent.trainable(),
        lr=settings.lr,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
        agc=settings.agc,
        agc_pmin=settings.agc_pmin,
        warmup=settings.warmup,
    )


def make_search(config: Config, qubits: int, directory: Path, budget: Budget) -> DirectionSearch:
    """The solver of problems with so many bits; circuits of QAOA go through a job queue."""
    settings = config.optimizer
    assert isinstance(settings, HybridConfig)
    quantum = config.quantum
    if settings.solver != "qaoa":
        bits = Levels.of(settings.levels).bits
        solver = make_solver(settings.solver, Statevector(), quantum, bits_per_block=bits)
        return SolverSearch(solver, quantum.shots)
    backend = open_backend(quantum, _warn)
    qaoa = _qaoa(config, backend)
    example = qaoa.task(_dense(qubits), torch.Generator())
    in_process = backend.name == "statevector"
    warm_up(backend, example, quantum.timeout)
    kept = None
    if not in_process:
        kept = directory / "optimizer"  # jobs that outlive the process
        kept.mkdir(parents=True, exist_ok=True)
    queue = JobQueue(backend, Limits.from_config(quantum), _warn, kept, in_process, budget)
    return QueueSearch(qaoa, queue, quantum.shots, settings.patience, facts(backend, example), settings.wait)


def _qaoa(config: Config, backend: Backend) -> QAOA:
    settings = config.optimizer
    assert isinstance(settings, HybridConfig)
    solver = make_solver("qaoa", backend, config.quantum, settings.p_layers, settings.angles)
    assert isinstance(solver, QAOA)
    return solver


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


def planned(config: Config, backend: Backend) -> list[Planned]:
    """The jobs that searches submit in a whole run, cut to the device as they will be, for a dry run."""
    settings, train = config.optimizer, config.train
    if not isinstance(settings, HybridConfig) or settings.solver != "qaoa":
        return []
    steps = max(config.steps - train.prefill, 0)
    updates = steps * train.replay_ratio / (train.batch_size * train.batch_length)
    task = _qaoa(config, backend).task(_dense(settings.num_qubits), torch.Generator())
    return [Planned("optimizer", task, config.quantum.shots, int(updates / settings.every))]


def check_optimizer(config: Config) -> None:
    """Raises ValueError or CredentialsError if the circuits of a run cannot be run."""
    settings = config.optimizer
    if isinstance(settings, HybridConfig) and settings.solver == "qaoa":
        _qaoa(config, open_backend(config.quantum, lambda text: None)).fit(_dense(settings.num_qubits))


def _warn(text: str) -> None:
    print(f"warning: optimizer: {text}", file=sys.stderr)

"""The sampler that the replay section of a config asks for."""

import math
import sys
from collections.abc import Callable
from functools import singledispatch
from pathlib import Path

import torch

from qdreamer.agents.replay.config import PrioritizedReplay, Priority, QuantumReplay, UniformReplay
from qdreamer.agents.replay.pool import ShotPool
from qdreamer.agents.replay.priorities import Priorities
from qdreamer.agents.replay.prioritized import PrioritizedSampler
from qdreamer.agents.replay.proposals import Proposal, TreeDistribution
from qdreamer.agents.replay.sampler import Sampler
from qdreamer.agents.replay.transforms import Boltzmann, Power, Rank, Rotation, Transform
from qdreamer.agents.replay.uniform import UniformSampler
from qdreamer.agents.training.config import Config
from qdreamer.quantum.backends.factory import open_backend
from qdreamer.quantum.circuits.backend import Backend, run
from qdreamer.quantum.jobs.budget import Budget
from qdreamer.quantum.jobs.dry_run import Planned
from qdreamer.quantum.jobs.job_queue import JobQueue
from qdreamer.quantum.jobs.pending_job import Limits
from qdreamer.quantum.qaoa.tasks import AmplitudeTask


def make_sampler(config: Config, directory: Path, budget: Budget) -> Sampler:
    """The sampler of `config.replay`; `directory` and `budget` are the run's."""
    return _make(config.replay, config, directory, budget)


@singledispatch
def _make(replay: object, config: Config, directory: Path, budget: Budget) -> Sampler:
    raise TypeError(f"no sampler for {type(replay).__name__}")


@_make.register
def _(replay: UniformReplay, config: Config, directory: Path, budget: Budget) -> Sampler:
    return UniformSampler(config.env.num_envs, config.train.batch_length, replay.online, config.seed)


@_make.register
def _(replay: PrioritizedReplay, config: Config, directory: Path, budget: Budget) -> Sampler:
    priorities = make_priorities(replay, config.env.num_envs)
    proposal = TreeDistribution(priorities.tree, replay.stratified)
    return PrioritizedSampler(priorities, proposal, replay.beta, replay.beta_updates, 0.0, config.seed)


@_make.register
def _(replay: QuantumReplay, config: Config, directory: Path, budget: Budget) -> Sampler:
    priorities = make_priorities(replay, config.env.num_envs)
    proposal: Proposal = TreeDistribution(priorities.tree)
    if config.quantum.name != "statevector":
        backend = open_backend(config.quantum, _warn)
        warm_up(backend, replay.qubits)
        kept = directory / "replay"  # jobs that outlive the process
        kept.mkdir(parents=True, exist_ok=True)
        limits = Limits.from_config(config.quantum)
        queue = JobQueue(backend, limits, _warn, kept, replay.wait, budget)
        proposal = ShotPool(priorities.tree, replay.qubits, replay.shots, replay.reuse, queue, config.seed)
    return PrioritizedSampler(
        priorities, proposal, replay.beta, replay.beta_updates, replay.floor, config.seed
    )


def make_transform(replay: Priority) -> Transform:
    """The transform called `replay.transform`."""
    makers: dict[str, Callable[[], Transform]] = {
        "power": lambda: Power(replay.alpha, replay.offset),
        "rank": lambda: Rank(replay.alpha),
        "boltzmann": lambda: Boltzmann(replay.temperature),
        "rotation": lambda: Rotation(replay.prepare, replay.depreciate, replay.offset),
    }
    return makers[replay.transform]()


def make_priorities(replay: Priority, num_envs: int) -> Priorities:
    size = replay.capacity // num_envs
    return Priorities(num_envs, size, make_transform(replay), replay.bonus, replay.decay)


def warm_up(backend: Backend, qubits: int) -> None:
    """Transpile the circuit before training, and see that the backend runs it. Raises BackendError.

    Qiskit's transpiler holds Python's lock for seconds: in the first job's thread it would stop the
    learner. Not for services, where a job has its price.
    """
    if not backend.remote:
        run(backend, [AmplitudeTask(torch.ones(1, 2**qubits))], 1, 0)


def planned(config: Config) -> list[Planned]:
    """The jobs that replay submits in a whole run, for a dry run."""
    replay, train = config.replay, config.train
    if not isinstance(replay, QuantumReplay) or config.quantum.name == "statevector":
        return []
    draws = max(config.steps - train.prefill, 0) * train.replay_ratio / train.batch_length
    doublings = math.log2(max(min(config.steps, replay.capacity) / max(train.prefill, 1), 1.0))
    calls = 1 + int(draws / (replay.reuse * replay.shots)) + int(doublings)  # used up, outgrown
    return [Planned("replay", AmplitudeTask(torch.ones(1, 2**replay.qubits)), replay.shots, calls)]


def check_backend(config: Config) -> None:
    """Raises ValueError or CredentialsError if the circuits of a run cannot be run."""
    if isinstance(config.replay, QuantumReplay):
        open_backend(config.quantum, lambda text: None)


def _warn(text: str) -> None:
    print(f"warning: replay: {text}", file=sys.stderr)

"""Which settings a run reads, found out by making its parts without memory for them.

Parts read their settings when they are made: the agent on torch's meta device, sampler and optimizer with it.
So what a run reads is derived from what its parts ask for. A part of a third party may ask later: all of its
section counts as read. Settings of the loop itself (`LOOP`) every run reads; `tests.every_key` holds all of
this against what runs do.
"""

import os
import tempfile
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import gymnasium
import torch
from torch import nn

from qdreamer.agents.optim.optimizer import make_optimizer
from qdreamer.agents.replay.config import make_sampler, make_selection
from qdreamer.agents.reporting.metrics import shows_pictures
from qdreamer.agents.reporting.reporting import Reporter
from qdreamer.agents.reporting.writers.writer import WRITERS
from qdreamer.agents.runs.config import Config
from qdreamer.agents.training.training import make_dreamer
from qdreamer.configs.recording import leaves, recording
from qdreamer.configs.registry import Registry
from qdreamer.configs.schema import ConfigError
from qdreamer.envs.factory import describe
from qdreamer.quantum.backends.factory import open_backend
from qdreamer.quantum.circuits.backend import Backend
from qdreamer.quantum.circuits.fidelity import CircuitEstimate
from qdreamer.quantum.jobs.access import CircuitAccess

T = TypeVar("T")
_COPIES = 4  # weights, gradients, two moments
PARTS = (
    "world_model", "agent", "sequence", "attention", "replay", "optimizer", "quantum", "weights", "heads",
    "logging", "env",
)  # fmt: skip
"""Sections that are asked for; all other settings are the loop's."""
LOOP = (
    "logging.every", "logging.writers", "env.num_envs", "env.vectorization", "env.solved", "quantum.dry_run",
    "logging.video_frames",  # of evaluate.py's video, too
    "replay.name", "replay.capacity", "replay.mapped", "replay.initial",  # whichever sampler draws
    "heads.name",
)  # fmt: skip
"""Settings of these sections that the loop reads whatever the parts are."""


def check_memory(agent: nn.Module) -> None:
    """Raises ConfigError if an agent and what its training keeps do not fit into this machine's memory."""
    gigabytes = sum(p.numel() * _COPIES * p.element_size() for p in agent.parameters()) / 1e9
    present = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    if gigabytes > present:
        raise ConfigError(
            f"such widths take {gigabytes:,.0f} GB for weights, gradients and averages, and this machine has "
            f"{present:,.0f}: use a smaller world_model, as world_model=12M"
        )


def _without_memory(make: Callable[[], T]) -> T:
    """Make something of tensors without their memory; with it, should it look at their values."""
    try:
        with torch.device("meta"):
            return make()
    except (RuntimeError, NotImplementedError):
        return make()


class _NotAsked:
    """A backend that is opened and never asked for a circuit, for which a service would want its price."""

    remote = True  # parts warm up all others

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._backend, name)
        if name == "estimate":  # a transpilation of seconds, whose figures nobody looks at here
            return lambda circuit: CircuitEstimate(1.0, circuit.two_qubit_gates, circuit.depth, 0.0)
        return found


@dataclass(frozen=True)
class _Access(CircuitAccess):
    """A run's access to circuits, as its parts see it. Limits count where jobs leave this process."""

    def backend(self, owner: str) -> Backend:
        backend = open_backend(self.config, lambda text: None)
        if not backend.in_process:
            for name in ("budget_shots", "budget_seconds", "timeout", "retries"):
                getattr(self.config, name)
        return cast(Backend, _NotAsked(backend))


def keys_read(config: Config) -> frozenset[str]:
    """Return the settings that a run reads, leaves of sections as "optimizer.lr".

    Raises what making the parts raises, ConfigError, EnvError, … of one line each.
    """
    view, read = recording(config)
    interface = describe(view.env)
    with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as folder:
        circuits = _Access(view.quantum, Path(folder))
        agent = _without_memory(lambda: make_dreamer(view, interface.observation, interface.action))
        check_memory(agent)
        if any(kept is view.quantum for part in agent.modules() for kept in vars(part).values()):
            circuits.backend("attention")  # a part that keeps the section opens it when it acts
        view.replay.measured  # noqa: B018 - the learner asks for it
        make_selection(view.replay, 0)
        make_sampler(view.replay, config.env.num_envs, config.train.batch_length, 0, circuits)
        make_optimizer(view.optimizer, agent, 0, circuits)
        log: Any = SimpleNamespace(pictures=shows_pictures(config.logging.writers))
        Reporter(view.env, view.evaluation, view.logging, config.steps, 1, log, Path(folder))
        circuits.close()
    read |= set(LOOP)
    for section in _third_parties(config, read):
        read |= set(leaves(getattr(config, section), f"{section}."))
    return frozenset(read)


def _third_parties(config: Config, read: set[str]) -> Iterator[str]:
    """Yield the sections that a part, chosen in them and not this package's own, may read later."""
    for section, registry in _choices(Config):
        own = getattr(config, section)
        chosen = [(f"{section}.name", registry[own.name].part)]
        chosen += [(f"{section}.{key}", inner[getattr(own, key)].part) for key, inner in _choices(type(own))]
        if own.kept and any(key in read and _strange(part) for key, part in chosen):
            yield section


def registered_here(config: Config) -> bool:
    """Tell whether this program alone knows some part of a run, or its environment, by its name."""
    spec = gymnasium.registry.get(config.env.id)
    entry = None if spec is None else spec.entry_point
    unnamed = entry is not None and not isinstance(entry, str) and _strange(entry)
    chosen = [(registry, getattr(config, section).name) for section, registry in _choices(Config)]
    for section, _ in _choices(Config):
        own = getattr(config, section)
        chosen += [(inner, getattr(own, key)) for key, inner in _choices(type(own))]
    chosen += [(WRITERS, name) for name in config.logging.writers]
    parts = [registry[name].part for registry, name in chosen if name not in registry.third_party()]
    return unnamed or any(map(_strange, parts))


def _strange(part: Any) -> bool:
    """Tell whether a part is not this package's own."""
    return not part.__module__.startswith("qdreamer.")


def _choices(cls: type) -> Iterator[tuple[str, Registry[Any]]]:
    """Yield the keys of a config by which parts are chosen."""
    for key, hint in typing.get_type_hints(cls, include_extras=True).items():
        yield from ((key, mark) for mark in getattr(hint, "__metadata__", ()) if isinstance(mark, Registry))

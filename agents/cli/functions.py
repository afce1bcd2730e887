"""What the commands do, as functions."""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import torch
from gymnasium.envs.registration import EnvSpec

from qdreamer.agents.cli import command_line
from qdreamer.agents.cli.composition import compose_all, typed
from qdreamer.agents.cli.overrides import parse
from qdreamer.agents.interaction.player import Player
from qdreamer.agents.runs.config import Config
from qdreamer.agents.training.loading import load
from qdreamer.agents.training.session import run_session
from qdreamer.analysis.comparison import Report, Settings
from qdreamer.analysis.comparison import compare as compare_runs
from qdreamer.analysis.run_form import CompareError
from qdreamer.analysis.run_record import RunRecord, find_runs, read_finished, read_run
from qdreamer.configs.schema import ConfigError, closest, did_you_mean
from qdreamer.quantum.backends.factory import make_backend
from qdreamer.quantum.qaoa.ising import Solution, from_qubo
from qdreamer.quantum.qaoa.solver import SOLVERS, Solver, SolverSetup


class TrainedRun(NamedTuple):
    """A run that was trained, or had been already."""

    directory: Path

    def load(self) -> Player:
        """Return its agent."""
        return load(self.directory)

    def record(self) -> RunRecord:
        """Return its evaluations, settings and costs. Raises CompareError."""
        return read_run(self.directory)


def train(
    *overrides: str, env: str | Callable[..., gymnasium.Env[Any, Any]] = "CartPole", **groups: Any
) -> TrainedRun:
    """Train an agent, or go on where the same call stopped; Ctrl-C saves.

    Args:
        overrides: settings as on the command line, "train.batch_size=8". groups: the same for keys without a
            dot: agent="hybrid", steps=3000, seed=1, runs="somewhere".
        env: a preset's name, or a callable that makes environments: its run is kept under its name. Training
            with it in processes of their own (env.vectorization=async) is not possible.

    Raises ConfigError, EnvError, … of one line each for what cannot run.
    """
    words = [*overrides, *(f"{key}={value}" for key, value in groups.items())]
    if callable(env):
        name = re.sub(r"\W", "", getattr(env, "__name__", type(env).__name__)) + "-v0"
        if name == "lambda-v0":
            raise ConfigError("give the callable that makes environments a name of its own, not lambda")
        before = gymnasium.registry.get(name)  # an earlier call's, or the user's own
        if before is None:
            gymnasium.register(name, entry_point=env)
        elif not _makes(before, env):
            raise ConfigError(
                f"{name} is registered already, for something else: rename {name[:-3]}, or use env='gym' and "
                f"'env.id={name}' if that is meant"
            )
        words += ["env=gym", f"env.id={name}"]
    else:
        words.append(f"env={env}")
    plan = command_line.prepare(words)
    if plan.text is not None or plan.launcher is not None or plan.repair:
        raise ConfigError("train(…) takes settings alone: options belong on the command line")
    (member,) = plan.members
    if run_session(member.config, member.directory):
        raise KeyboardInterrupt
    return TrainedRun(member.directory)


def _makes(spec: EnvSpec, env: Any) -> bool:
    """Tell whether a callable is what makes a registered environment, without importing anything."""
    entry = spec.entry_point
    return entry is env or entry == f"{env.__module__}:{getattr(env, '__qualname__', '')}"


def compare(folder: str | Path, **settings: Any) -> Report:
    """Return what compare.py finds in the runs of one environment, as data.

    `settings` are those of `analysis.comparison.Settings`: baseline, primary, threshold, margin,
    allow_versions. Unfinished runs are left out, with a note. Raises CompareError for runs that do not match,
    and for settings that cannot be.
    """
    known = [field.name for field in dataclasses.fields(Settings)]
    for name in settings.keys() - set(known):
        hint = did_you_mean(closest(name, known))
        raise CompareError(f"unknown setting {name}{hint}; settings are {', '.join(known)}")
    chosen = Settings(**settings)
    runs, left_out = read_finished(find_runs(Path(folder)))
    report = compare_runs(Path(folder), runs, chosen)
    report.notes.extend(left_out)
    return report


def solve_qubo(
    quadratic: Any,
    solver: str = "qaoa",
    backend: str = "statevector",
    shots: int = 1024,
    layers: int = 3,
    seed: int = 0,
    **settings: Any,
) -> Solution:
    """Minimise bᵀQb over bits b.

    Args:
        quadratic: Q (n, n), any array of numbers.
        solver: qaoa, or a control: exact, greedy, random, annealing.
        backend: where circuits run, as `quantum=…` on the command line: statevector, aer, aer_noisy,
            pennylane, ibm (a device, or with device="FakeManilaV2" a local one). shots: samples.
        layers: of QAOA. settings: of the backend, as that device.

    Raises ConfigError for unknown words, ValueError for a Q that is not square.
    """
    problem = from_qubo(torch.as_tensor(quadratic, dtype=torch.float64))
    made = make_solver(solver, backend, layers, **settings)
    return made.solve(problem, shots, torch.Generator().manual_seed(seed))


def make_solver(solver: str, backend: str, layers: int, bits: int = 1, **settings: Any) -> Solver:
    """Return a solver of Ising problems; `bits` of a block with several. Arguments as of `solve_qubo`."""
    words = [f"quantum={backend}", *(f"quantum.{key}={value}" for key, value in settings.items())]
    with argument_names(
        {"solvers=": "solver=", "backends=": "backend=", "quantum.": "", "p_layers": "layers"}
    ):
        quantum = typed(Config, compose_all([parse(word) for word in words])).quantum
        setup = SolverSetup(make_backend(quantum), quantum, layers=layers, bits_per_block=bits)
        made: Solver = SOLVERS[solver].part.make(setup)
    return made


@contextmanager
def argument_names(names: Mapping[str, str]) -> Iterator[None]:
    """Raises ConfigError for a ValueError inside, which calls settings by their arguments' `names`."""
    try:
        yield
    except ValueError as error:
        text = str(error)
        for key, argument in names.items():
            text = text.replace(key, argument)
        raise ConfigError(text) from error

"""One session of a run, as a user meets it: start or resume, train, summarise."""

import shlex
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

import torch

from qdreamer.agents.distributed.ranks import SINGLE_PROCESS, RanksError, SingleProcess
from qdreamer.agents.reporting.progress import Progress, duration
from qdreamer.agents.runs.config import Config
from qdreamer.agents.runs.lock import exclusive
from qdreamer.agents.runs.run_directory import check_same_run, read_summary, write_config
from qdreamer.agents.training.observer import Observer
from qdreamer.agents.training.rehearsal import registered_here
from qdreamer.agents.training.storage_choice import show_bytes
from qdreamer.agents.training.training import Run
from qdreamer.configs.schema import ConfigError
from qdreamer.envs.edge.guard import EnvFailure
from qdreamer.envs.interface import summary
from qdreamer.quantum.backends.factory import make_backend
from qdreamer.quantum.jobs.dry_run import report


def check_device(device: str) -> None:
    """Raises ConfigError when torch cannot use `device` here."""
    try:
        torch.zeros(1, device=device)
    except Exception as error:
        available = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise ConfigError(
            f"device={device} is not available here: use one of {', '.join(available)}"
        ) from error


def check_ranks(config: Config, ranks: SingleProcess) -> None:
    """Raises ConfigError for settings that these ranks cannot share."""
    if ranks.size == 1:
        return
    train, size = config.train, ranks.size
    if train.batch_size % size:
        near = max(train.batch_size // size, 1) * size
        raise ConfigError(
            f"train.batch_size={train.batch_size} cannot be shared by {size} processes: "
            f"use a multiple, as train.batch_size={near}"
        )
    least = size * config.env.num_envs * (train.batch_length + 1)
    if config.replay.capacity < least:
        raise ConfigError(
            f"replay.capacity={config.replay.capacity} leaves too few rows for each environment of {size} "
            f"processes: use at least replay.capacity={least}"
        )
    if config.replay.sends_jobs(config.quantum):
        raise ConfigError(
            f"replay={config.replay.name} on quantum={config.quantum.name} would pay for the jobs of {size} "
            "processes: use quantum=statevector, or one process"
        )
    if config.device.startswith("cuda:"):
        raise ConfigError(
            f"device={config.device} is one GPU for {size} processes: use device=cuda, one for each"
        )


def run_session(config: Config, directory: Path, ranks: SingleProcess = SINGLE_PROCESS) -> int:
    """Train in `directory`; return the exit code (130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP)."""
    if config.quantum.dry_run:
        return _dry_run(config, ranks)
    with ExitStack() as stack:
        with ranks.collective_errors():
            check_ranks(config, ranks)
            check_device(ranks.device(config.device))
            if ranks.rank == 0:
                stack.enter_context(exclusive(directory))
                check_same_run(directory, config)
                if read_summary(directory).get("step", 0) < config.steps:  # else nothing is done, or changed
                    write_config(directory, config)
            run = Run(config, directory, ranks)
            stack.callback(run.close)
        try:
            signal = _train(run, config, directory)
            ranks.maximum(0)  # waits: a launcher that sees one rank end may stop others, which still write
        except EnvFailure:
            if ranks.rank > 0:  # rank 0 says it: torchrun would stop it, if this rank ended first
                with suppress(RanksError):
                    ranks.maximum(0)  # until rank 0 has ended
                sys.exit(1)
            raise
        except (RanksError, FloatingPointError):
            if ranks.rank > 0:  # rank 0 says the same
                sys.exit(1)
            raise
    return 0 if signal is None else 128 + signal


def _dry_run(config: Config, ranks: SingleProcess) -> int:
    """Print what the run would ask of its quantum backend; nothing is spent."""
    if ranks.rank == 0:
        quantum = config.quantum
        budgets = quantum.budget_shots, quantum.budget_seconds
        backend = make_backend(quantum)
        jobs = [*config.replay.planned(config, backend), *config.optimizer.planned(config, backend)]
        print(report(backend, quantum.device, jobs, *budgets))
    return 0


def _train(run: Run, config: Config, directory: Path) -> int | None:
    """Train and tell about it; return the signal that interrupted the run."""
    if run.step >= config.steps:
        print(f"{directory} already has {run.step} steps: nothing to do (more with steps=…)")
        return None
    if run.observer is not None:
        run.observer.summarise(run.step)
    parameters = sum(p.numel() for p in run.agent.trainable())
    begin = f"resuming at step {run.step}" if run.step else "starting"
    on = f" · {run.ranks.size} processes" if run.ranks.size > 1 else ""
    print(f"{directory} · {config.env.id} · {parameters:,} parameters{on} · {begin}")
    print(summary(run.agent.observation, run.agent.action))
    in_memory, in_files = (run.ranks.size * size for size in run.replay.full_bytes())
    files = f" and {show_bytes(in_files)} of files" if in_files else ""
    rows = f"{config.replay.capacity:,} rows"
    print(f"replay: {rows} when full: {show_bytes(in_memory)} of memory{files}", flush=True)
    if run.step and run.ranks.maximum(int(not run.same_episodes)) and run.observer is not None:
        print(
            "warning: this environment did not come back to the same state from its seed and actions; "
            "the resumed run will differ from an unbroken one",
            file=sys.stderr,
        )
    progress = Progress(config.steps, run.step, run.learner.updates, repeat=config.env.repeat)
    try:
        signal = run.train(progress)
    finally:
        progress.close()
    if run.observer is not None:
        _print_summary(run, run.observer, signal)
    return signal


def _print_summary(run: Run, observer: Observer, signal: int | None) -> None:
    """Print the last lines of a session."""
    config, directory = run.config, run.directory
    if signal is not None:
        print(
            f"interrupted at step {run.step}; saved. Go on with the same command,\n"
            f"or {shlex.quote(f'resume={directory}')}"
        )
    else:
        took = duration(observer.seconds())
        frames = f" ({run.step * config.env.repeat} frames)" if config.env.repeat > 1 else ""
        print(f"done: {run.step} steps{frames}, {run.learner.updates} updates in {took}")
    if observer.last_evaluation is not None:
        mean, low, high = observer.last_evaluation
        print(
            f"evaluation: mean return {mean:.1f} [95 % interval {low:.1f}, {high:.1f}]\n"
            f"          over {config.evaluation.episodes} unseen episodes, at step {observer.evaluated_at}"
        )
    if observer.solved_at is not None:
        print(f"first evaluation ≥ {config.env.solved:g} at step {observer.solved_at}")
    print(f"run:      {directory}")
    print(f"curves:   tensorboard --logdir {shlex.quote(config.runs)}")
    if registered_here(config):
        print(f"evaluate: qdreamer.load({str(directory)!r}), in a program that registers its parts")
    else:
        print(f"evaluate: qdreamer evaluate {shlex.quote(str(directory))}")
    if observer.best is not None and observer.best[0] != observer.evaluated_at:
        print(
            f"best:     {observer.best[1]:.1f} at step {observer.best[0]}: add --best to evaluate that policy"
        )
    for what, reason in observer.reporter.problems.items():
        print(f"no {what}: {reason}")

"""One session of a run, as a user meets it: start or resume, train, summarise."""

import sys
from contextlib import ExitStack
from pathlib import Path

import torch

from qdreamer.agents.distributed.ranks import SINGLE_PROCESS, RanksError, SingleProcess
from qdreamer.agents.reporting.progress import Progress, duration
from qdreamer.agents.runs.config import Config
from qdreamer.agents.runs.lock import exclusive
from qdreamer.agents.runs.run_directory import check_same_run, write_config
from qdreamer.agents.training.observer import Finished
from qdreamer.agents.training.training import Run
from qdreamer.configs.schema import ConfigError
from qdreamer.quantum.backends.factory import make_backend
from qdreamer.quantum.jobs.dry_run import report


def check_device(device: str) -> None:
    """Raises ConfigError when torch cannot use `device` here."""
    try:
        parsed = torch.device(device)
        torch.zeros(1, device=parsed)
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
    """Train in `directory`; returns the exit code (130 after Ctrl-C, 143 after SIGTERM)."""
    if config.quantum.dry_run:
        return _dry_run(config, ranks)
    with ExitStack() as stack:
        with ranks.collective_errors():
            check_ranks(config, ranks)
            check_device(ranks.device(config.device))
            if ranks.rank == 0:
                stack.enter_context(exclusive(directory))
                check_same_run(directory, config)
                write_config(directory, config)
            run = Run(config, directory, ranks)
            stack.callback(run.close)
        try:
            signal = _train(run, config, directory)
            ranks.barrier()  # a launcher that sees one rank end may stop the others, which still write
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
    """The signal that interrupted the run."""
    if run.observer is not None:
        run.observer.summarise(run.step)
    if run.step >= config.steps:
        print(f"{directory} already has {run.step} steps: nothing to do (more with steps=…)")
        return None
    parameters = sum(p.numel() for p in run.agent.trainable())
    begin = f"resuming at step {run.step}" if run.step else "starting"
    on = f" · {run.ranks.size} processes" if run.ranks.size > 1 else ""
    print(f"{directory} · {config.env.id} · {parameters:,} parameters{on} · {begin}", flush=True)
    if run.step and run.ranks.maximum(int(not run.same_episodes)) and run.observer is not None:
        print(
            "warning: this environment did not come back to the same state from its seed and actions; "
            "the resumed run will differ from an unbroken one",
            file=sys.stderr,
        )
    progress = Progress(config.steps, run.step, run.learner.updates)
    try:
        finished = run.train(progress)
    finally:
        progress.close()
    if run.observer is not None:
        print(summary(finished, config, directory))
        if run.observer.reporter.video_problem:
            print(f"no videos: {run.observer.reporter.video_problem}")
    return finished.signal


def summary(finished: Finished, config: Config, directory: Path) -> str:
    """The last lines of a session."""
    lines = []
    if finished.signal is not None:
        lines.append(
            f"interrupted at step {finished.step}; saved. Go on with the same command, or resume={directory}"
        )
    else:
        lines.append(
            f"done: {finished.step} steps, {finished.updates} updates in {duration(finished.seconds)}"
        )
    if finished.evaluation is not None:
        mean, low, high = finished.evaluation
        lines.append(
            f"evaluation: mean return {mean:.1f} [95 % interval {low:.1f}, {high:.1f}] "
            f"over {config.evaluation.episodes} unseen episodes, at step {finished.evaluated_at}"
        )
    if finished.solved_at is not None:
        lines.append(f"first evaluation ≥ {config.env.solved:g} at step {finished.solved_at}")
    lines += [
        f"run:      {directory}",
        f"curves:   tensorboard --logdir {config.runs}",
        f"evaluate: qdreamer evaluate {directory}",
    ]
    return "\n".join(lines)

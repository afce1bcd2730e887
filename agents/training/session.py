"""One session of a run, as a user meets it: start or resume, train, summarise."""

import sys
from contextlib import ExitStack
from pathlib import Path

import torch

from qdreamer.agents.distributed.follower import Follower
from qdreamer.agents.distributed.parallel import ALONE, Alone, RanksError, Together
from qdreamer.agents.optim.optimizer_factory import planned as optimizer_jobs
from qdreamer.agents.replay.factory import planned
from qdreamer.agents.reporting.progress import Progress, duration
from qdreamer.agents.runs.lock import exclusive
from qdreamer.agents.runs.run_directory import check_same_run, write_config
from qdreamer.agents.training.config import Config
from qdreamer.agents.training.training import Finished, Run
from qdreamer.configs.strict import ConfigError
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


def run_session(config: Config, directory: Path, ranks: Alone | Together = ALONE) -> int:
    """Train in `directory`; returns the exit code (130 after Ctrl-C, 143 after SIGTERM)."""
    if config.quantum.dry_run:
        return _dry_run(config, ranks)
    if isinstance(ranks, Together) and ranks.rank > 0:
        return _follow(config, directory, ranks)
    with ExitStack() as stack:
        with ranks.together():
            _check(config, ranks)
            stack.enter_context(exclusive(directory))
            check_same_run(directory, config)
            write_config(directory, config)
            run = Run(config, directory, ranks)
            stack.callback(run.close)
        signal = _train(run, config, directory)
        run.followers.dismiss(signal)
    return _code(signal)


def _dry_run(config: Config, ranks: Alone | Together) -> int:
    """What the run would ask of its quantum backend; nothing is spent."""
    if ranks.rank == 0:
        quantum = config.quantum
        budgets = quantum.budget_shots, quantum.budget_seconds
        backend = make_backend(quantum)
        jobs = [*planned(config), *optimizer_jobs(config, backend)]
        print(report(backend, quantum.device, jobs, *budgets))
    return 0


def _follow(config: Config, directory: Path, ranks: Together) -> int:
    """The session of the other ranks, which rank 0 speaks for."""
    with ranks.together():
        _check(config, ranks)
        follower = Follower(config, directory, ranks)
    try:
        return _code(follower.run())
    except RanksError:
        sys.exit(1)


def _check(config: Config, ranks: Alone | Together) -> None:
    ranks.check(config)
    check_device(ranks.device(config.device))


def _code(signal: int | None) -> int:
    return 0 if signal is None else 128 + signal


def _train(run: Run, config: Config, directory: Path) -> int | None:
    """The signal that interrupted the run."""
    run.summarise()
    if run.step >= config.steps:
        print(f"{directory} already has {run.step} steps: nothing to do (more with steps=…)")
        return None
    parameters = sum(p.numel() for p in run.agent.trainable())
    begin = f"resuming at step {run.step}" if run.step else "starting"
    print(f"{directory} · {config.env.id} · {parameters:,} parameters · {begin}", flush=True)
    if run.step and not run.same_episodes:
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
    print(summary(finished, config, directory))
    if run.reporter.video_problem:
        print(f"no videos: {run.reporter.video_problem}")
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

"""The command line of train.py: what cannot be right is refused in one line, before anything starts.

Hydra alone accepts `+unknown=1`, merges `agent=[a,b]` silently and answers typing errors with
tracebacks. So it only composes (`agents.cli.composition`), and every member of a sweep is checked
beforehand: its settings by `configs.schema`, its environment by one step in it.
"""

import functools
import json
import os
import re
import sys
import warnings
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import gymnasium
import torch
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from qdreamer.agents.cli.composition import (
    SWEEP_FILE,
    compose_all,
    default_choice,
    resolved,
    typed,
    unknown_to_some,
)
from qdreamer.agents.cli.effect import check_lengths, refuse, unread
from qdreamer.agents.cli.help import help_text
from qdreamer.agents.cli.overrides import (
    HELP,
    REPAIR,
    RESOLVE,
    SHOW,
    SWEEP,
    format_override,
    is_launchers,
    members,
    read,
)
from qdreamer.agents.distributed.process_group import join
from qdreamer.agents.distributed.ranks import SINGLE_PROCESS, RanksError, SingleProcess
from qdreamer.agents.runs.checkpoint import CheckpointError, what_is_safe
from qdreamer.agents.runs.config import Config
from qdreamer.agents.runs.orphan import exit_with_parent
from qdreamer.agents.runs.repair import repair
from qdreamer.agents.runs.run_directory import (
    FREE,
    check_same_run,
    found_again,
    is_free,
    read_config,
    run_directory,
)
from qdreamer.agents.sweeps.sweep import LAUNCHERS, LauncherConfig, Member, Sweep, SweepConfig, refuse_doubles
from qdreamer.agents.training.interrupt import InterruptedTwice
from qdreamer.agents.training.session import check_device, check_ranks, run_session
from qdreamer.configs.console import fail, one_line
from qdreamer.configs.schema import ConfigError, build
from qdreamer.envs.edge.guard import EnvFailure
from qdreamer.envs.factory import EnvError, check_env, describe
from qdreamer.quantum.circuits.backend import BackendError, CredentialsError

REFUSALS = (ConfigError, EnvError, BackendError, CredentialsError, OSError, RanksError)
"""What `prepare` raises; each is one line."""


class Plan(NamedTuple):
    """What a command line asks for: to print something, one run, or a sweep."""

    text: str | None = None
    members: tuple[Member, ...] = ()
    launcher: LauncherConfig | None = None  # of a sweep
    repair: bool = False  # before the run goes on
    notes: tuple[str, ...] = ()  # for the user, before it begins


def main(arguments: list[str] | None = None) -> None:
    """Run train.py; the arguments are those of the command line unless given."""
    exit_with_parent()
    ranks = join()
    try:
        _main(sys.argv[1:] if arguments is None else arguments, ranks)
    except SystemExit as end:
        ranks.exit(end.code)
    if ranks.size > 1:
        ranks.exit(0)


def _main(arguments: list[str], ranks: SingleProcess) -> None:
    gymnasium.logger.min_level = gymnasium.logger.WARN
    try:
        with ranks.collective_errors():
            plan = prepare(arguments, ranks)
            sweep = None if plan.launcher is None else _sweep(plan.members, plan.launcher)
    except REFUSALS as error:
        fail(error)
    # `prepare` has passed Gymnasium's warnings on, once; every copy of the environment repeats them.
    gymnasium.logger.min_level = gymnasium.logger.ERROR
    if plan.text is not None:
        if ranks.rank == 0:
            print(plan.text)
        return
    for note in plan.notes:
        print(f"note: {note}", flush=True)
    try:
        if code := _train(plan, ranks) if sweep is None else sweep.run():
            sys.exit(code)
    except InterruptedTwice:
        fail("interrupted twice; what was saved before is kept", 130)
    except KeyboardInterrupt:
        fail("interrupted; what was saved before is kept", 130)


def prepare(arguments: list[str], ranks: SingleProcess = SINGLE_PROCESS) -> Plan:
    """Read a command line. Raises ConfigError, EnvError, … for anything that could not run."""
    flags, overrides = read(arguments)
    if any(flag in (*HELP, *SHOW) for flag in flags):
        return Plan(text=_shown(flags, overrides))
    runs, others = _runs(overrides)
    checked: set[str] = set()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found, notes = _with_effect(runs, others, [_checked(run, ranks, checked) for run in runs])
    _pass_on(caught)
    repairs = REPAIR in flags
    if repairs and ranks.size > 1:
        raise ConfigError("--repair works on one process: leave out torchrun, or --repair")
    if not any(flag in SWEEP for flag in flags):
        return Plan(members=tuple(found), repair=repairs)
    if repairs:
        raise ConfigError("--repair speaks of one run: leave out -m")
    if ranks.size > 1:
        raise ConfigError("a sweep starts its runs itself: leave out torchrun, or -m")
    if any(member.config.quantum.dry_run for member in found):
        raise ConfigError("quantum.dry_run=true speaks of one run: leave out -m")
    refuse_doubles(found)
    own = compose_all([override for override in overrides if is_launchers(override)], SWEEP_FILE)
    return Plan(members=tuple(found), launcher=typed(SweepConfig, own).launcher, notes=notes)


def _shown(flags: list[str], overrides: list[Override]) -> str:
    """Return what --help or --cfg prints: with resume=, the settings of that run.

    Raises ConfigError for settings that are known to be wrong.
    """
    for member in _runs(overrides)[0]:
        composed = compose_all(member)
        if RESOLVE in flags:
            resolved(composed)
    if any(flag in HELP for flag in flags):
        return help_text()
    if composed.resume is not None:
        keys = [override.key_or_group for override in overrides]
        config = _resumed(typed(Config, composed), Path(composed.resume), keys)
        composed = OmegaConf.create(json.loads(json.dumps(asdict(config))))
    return OmegaConf.to_yaml(composed, resolve=RESOLVE in flags).rstrip()


def _sweep(found: tuple[Member, ...], launcher: LauncherConfig) -> Sweep:
    launch = LAUNCHERS[launcher.name].part(launcher, Path(found[0].config.runs))
    return Sweep(found, launch, launcher.jobs, lambda line: print(line, flush=True))


class _Checked(NamedTuple):
    """A run, and what its settings were composed to."""

    member: Member
    composed: DictConfig


def _runs(overrides: list[Override]) -> tuple[list[list[Override]], list[list[Override]]]:
    """Return the settings of every run of the sweep, and apart those that only others of its runs have."""
    runs = members(overrides)
    others = unknown_to_some(runs)
    return [[o for o in run if o not in unknown] for run, unknown in zip(runs, others, strict=True)], others


def _with_effect(
    runs: list[list[Override]], others: list[list[Override]], found: list[_Checked]
) -> tuple[list[Member], tuple[str, ...]]:
    """Return the runs, each without settings that it does not read, and what there is to say of that.

    `others` are settings that are left out of a run already, as only other runs of the sweep have their keys.
    Runs that then are the same are one. Raises ConfigError for a setting that no run of the sweep reads.
    """
    silent = [unread(run, made.composed, made.member.config) for run, made in zip(runs, found, strict=True)]
    left_out = [[*unused, *unknown] for unused, unknown in zip(silent, others, strict=True)]
    nowhere = set.intersection(*({str(o.key_or_group) for o in unused} for unused in left_out))
    refuse([(o, run) for run, un in zip(runs, silent, strict=True) for o in un if o.key_or_group in nowhere])
    kept: list[Member] = []
    differ: dict[str, None] = {}
    for run, made, unused in zip(runs, found, left_out, strict=True):
        member = _composed([o for o in run if o not in unused]).member if unused else made.member
        if unused and any(member.directory == other.directory for other in kept):
            differ.update(dict.fromkeys(str(o.key_or_group) for o in unused))
        else:
            kept.append(member)
    fewer = len(found) - len(kept)
    what, once = "runs differ from others only in what they do", "they are run once"
    if fewer == 1:
        what, once = "runs differs from another only in what it does", "the two are one run"
    return kept, (f"{fewer} of {len(found)} {what} not read ({', '.join(differ)}): {once}",) * bool(fewer)


def _checked(overrides: list[Override], ranks: SingleProcess, checked: set[str]) -> _Checked:
    """Return one run, after all about it that can be found out without starting it."""
    made = _composed(overrides)
    config = made.member.config
    check_lengths(config, [str(override.key_or_group) for override in overrides])
    if re.fullmatch(r"cpu|cuda(:\d+)?", config.device) is None:
        raise ConfigError(f"device={config.device} is not one of cpu, cuda, cuda:<number>")
    check_ranks(config, ranks)
    check_device(ranks.device(config.device))
    try:
        config.replay.check_here(config)
        config.optimizer.check_here(config)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if repr(config.env) not in checked:
        resumes = config.resume is not None
        with found_again(made.member.directory, config) if resumes else nullcontext():
            check_env(config.env)
        checked.add(repr(config.env))
    if config.train.pink_noise and config.train.collect and not describe(config.env).action.numbers:
        raise ConfigError(
            "train.pink_noise=true has no effect: no action is continuous; use train.pink_noise=false"
        )
    return made


def _composed(overrides: list[Override]) -> _Checked:
    """Return the run of some settings, and where it lives. Raises ConfigError."""
    keys = [override.key_or_group for override in overrides]
    composed = compose_all(overrides)
    config = typed(Config, composed)
    texts = [format_override(override) for override in overrides]
    if (resume := config.resume) is not None:
        config, directory = _resumed(config, Path(resume), keys), Path(resume)
    else:
        if not config.runs:
            raise ConfigError("runs= names no folder: write runs=runs, or leave it out")
        _check_runs(Path(config.runs))
        env = next((str(o.value()) for o in overrides if o.key_or_group == "env"), None)
        name = config.env.id if "env.id" in keys else env or default_choice("env")
        directory = run_directory(config, name, texts)
    return _Checked(Member(directory, config, tuple(texts)), composed)


def _check_runs(runs: Path) -> None:
    """Raises ConfigError unless the folder is there or can be made."""
    existing = next(path for path in (runs, *runs.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise ConfigError(f"runs={runs} cannot be used: {existing} is not a folder that can be written to")


def _pass_on(caught: list[warnings.WarningMessage]) -> None:
    """Print Gymnasium's warnings, one line each; other libraries' are not for the user."""
    for text in dict.fromkeys(re.sub(r"\x1b\[\d+m", "", str(warning.message)) for warning in caught):
        if text.startswith("WARN: "):
            print(f"warning: {one_line(text[6:])}", file=sys.stderr)


def _train(plan: Plan, ranks: SingleProcess) -> int:
    """Run a session and return its exit code. What ends it early is one line."""
    (member,) = plan.members
    try:
        if plan.repair:
            check_same_run(member.directory, member.config)
            repair(member.directory)
        return run_session(member.config, member.directory, ranks)
    except EnvFailure as error:
        fail(error, 1)
    except (ConfigError, EnvError, CheckpointError, BackendError, CredentialsError) as error:
        fail(error)
    except RanksError as error:
        fail(error, 1)
    except FloatingPointError as error:
        fail(f"training diverged: {error}; the last checkpoint is kept, try a lower optimizer.lr", 1)
    except OSError as error:
        fail(f"{error}; {what_is_safe(member.directory)}", 1)
    except (MemoryError, torch.OutOfMemoryError) as error:
        fail(f"not enough memory: {error}; try a smaller replay.capacity or world_model", 1)


def _resumed(config: Config, directory: Path, keys: list[str]) -> Config:
    """Return the config of the run in `directory`, but for the given keys, which must be free."""
    for key in keys:
        if not is_free(key):
            raise ConfigError(
                f"resume={directory} takes {key} from the run; "
                f"only {', '.join(FREE[2:])} may be given with it"
            )
    values, now = asdict(read_config(directory)), asdict(config)
    for key in keys:
        *sections, last = key.split(".")
        old, new = (functools.reduce(dict.__getitem__, sections, whole) for whole in (values, now))
        old[last] = new[last]
    return build(Config, values)

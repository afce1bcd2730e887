"""The command line: Hydra composes, this module refuses what cannot be right, in one line.

Hydra alone accepts `+unknown=1`, merges `agent=[a,b]` silently and answers typing errors with
tracebacks. So every command line is checked beforehand, every member of a sweep included: its
settings by `configs.schema`, its environment by one step in it. Only then does Hydra run it.
"""

import copy
import functools
import os
import re
import sys
import warnings
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NoReturn

import gymnasium
import hydra
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from qdreamer.agents.cli.overrides import (
    CONFIGS,
    HELP,
    LAUNCHER,
    SHOW,
    SWEEP,
    format_override,
    groups,
    is_hydras,
    is_launchers,
    is_open,
    members,
    parse,
    read,
)
from qdreamer.agents.distributed.process_group import join
from qdreamer.agents.distributed.ranks import RanksError, SingleProcess
from qdreamer.agents.runs.checkpoint import CheckpointError
from qdreamer.agents.runs.config import Config
from qdreamer.agents.runs.orphan import exit_with_parent
from qdreamer.agents.runs.run_directory import FREE, is_free, read_config, run_directory
from qdreamer.agents.sweeps.launcher_config import LAUNCHERS, LauncherConfig, SweepConfig
from qdreamer.agents.sweeps.sweep import Member, Sweep, refuse_doubles
from qdreamer.agents.training.session import check_device, check_ranks, run_session
from qdreamer.configs.schema import ConfigError, build, closest, did_you_mean
from qdreamer.envs.factory import EnvError, check_env
from qdreamer.quantum.circuits.backend import BackendError, CredentialsError

_HYDRA_ONLY = ("--hydra-help", "--version", "-i", "--info", "-sc", "--shell-completion")


def main() -> None:
    """Entry point of train.py."""
    exit_with_parent()
    ranks = join()
    try:
        _main(ranks)
    except SystemExit as end:
        ranks.exit(end.code)
    if ranks.size > 1:
        ranks.exit(0)


def _main(ranks: SingleProcess) -> None:
    gymnasium.logger.min_level = gymnasium.logger.WARN
    try:
        with ranks.collective_errors():
            arguments, sys.argv[1:] = sys.argv[1:], prepare(sys.argv[1:])
            sweep = _plan(arguments, ranks)
    except (ConfigError, EnvError, BackendError, CredentialsError, OSError, RanksError) as error:
        fail(error)
    # `prepare` has passed Gymnasium's warnings on, once; every copy of the environment repeats them.
    gymnasium.logger.min_level = gymnasium.logger.ERROR
    try:
        if sweep is None:
            _job()
        elif code := sweep.run():
            sys.exit(code)
    except KeyboardInterrupt:
        fail("interrupted twice; what was saved before is kept", 130)


def fail(error: BaseException | str, code: int = 2) -> NoReturn:
    """One line on standard error, and out."""
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(code)


def prepare(arguments: list[str]) -> list[str]:
    """Check a command line; the same one, as Hydra wants it.

    Raises ConfigError or EnvError for anything that could not run.
    """
    if any(argument.split("=")[0] in _HYDRA_ONLY for argument in arguments):
        return arguments
    flags, overrides = read(arguments)
    runs = members([override for override in overrides if not is_launchers(override)])
    shown = any(flag in SHOW for flag in flags)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        checked: set[str] = set()
        for member in runs:
            if shown or any(flag in HELP for flag in flags):
                _compose_all(member, resolve="--resolve" in flags)
            else:
                _check_run(member, checked)
    _pass_on(caught)
    return [*flags, *(format_override(override) for override in overrides)]


def plan_sweep(arguments: list[str]) -> tuple[list[Member], SweepConfig]:
    """The runs of a command line with -m, and where they are to run. Raises ConfigError."""
    _, overrides = read(arguments)
    own = [str(override.input_line) for override in overrides if is_launchers(override)]
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            where = build(SweepConfig, _resolved(compose("sweep", overrides=own)))
    except HydraException as error:
        longest = LAUNCHERS["slurm"].config or LauncherConfig
        keys = ", ".join(f"{LAUNCHER}.{key.name}" for key in fields(longest)[1:])
        raise ConfigError(f"{' '.join(own)}: not among {LAUNCHER}=…, {keys}") from error
    found = []
    for member in members([override for override in overrides if not is_launchers(override)]):
        config, directory = _resolve_resume(_load(member), [override.key_or_group for override in member])
        if config.quantum.dry_run:
            raise ConfigError("quantum.dry_run=true speaks of one run: leave out -m")
        texts = [format_override(override) for override in member]
        choice = next((str(o.value()) for o in member if o.key_or_group == "env"), _default_env())
        given = any(override.key_or_group == "env.id" for override in member)
        directory = directory or run_directory(config, config.env.id if given else choice, texts)
        found.append(Member(directory, config, tuple(texts)))
    refuse_doubles(found)
    return found, where


def _default_env() -> str:
    defaults = OmegaConf.load(CONFIGS / "config.yaml").defaults
    return str(next(entry["env"] for entry in defaults if "env" in entry))


def _plan(arguments: list[str], ranks: SingleProcess) -> Sweep | None:
    """The sweep that -m asks for."""
    if not any(flag in SWEEP for flag in arguments) or any(flag in HELP for flag in arguments):
        return None
    if ranks.size > 1:
        raise ConfigError("a sweep starts its runs itself: leave out torchrun, or -m")
    found, where = plan_sweep(arguments)
    launcher = where.launcher
    launch = LAUNCHERS[launcher.name].part(launcher, Path(found[0].config.runs))
    return Sweep(found, launch, launcher.jobs, functools.partial(print, flush=True))


def load_config(overrides: list[str]) -> Config:
    """Compose and check one run's config. Raises ConfigError."""
    return _load([parse(text) for text in overrides])


def _check_run(member: list[Override], checked: set[str]) -> None:
    """Everything about one run that can be found out without starting it."""
    config, directory = _resolve_resume(_load(member), [override.key_or_group for override in member])
    if directory is None:
        _check_runs(Path(config.runs))
    if re.fullmatch(r"cpu|cuda(:\d+)?", config.device) is None:
        raise ConfigError(f"device={config.device} is not one of cpu, cuda, cuda:<number>")
    ranks = join()
    check_ranks(config, ranks)
    check_device(ranks.device(config.device))
    try:
        config.replay.check_here(config)
        config.optimizer.check_here(config)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if repr(config.env) not in checked:
        check_env(config.env)
        checked.add(repr(config.env))


def _check_runs(runs: Path) -> None:
    """Whether the folder can be made. In a sweep Hydra makes it, and answers trouble with a traceback."""
    existing = next(path for path in (runs, *runs.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise ConfigError(f"runs={runs} cannot be used: {existing} is not a folder that can be written to")


def _pass_on(caught: list[warnings.WarningMessage]) -> None:
    """Gymnasium's warnings, one line each; other libraries' are not for the user."""
    texts = [re.sub(r"\x1b\[\d+m", "", str(warning.message)) for warning in caught]
    for text in dict.fromkeys(texts):
        if text.startswith("WARN: "):
            print(f"warning: {' '.join(text[6:].split())}", file=sys.stderr)


@hydra.main(config_path=str(CONFIGS), config_name="config", version_base="1.3")
def _job(composed: DictConfig) -> None:
    try:
        hydra_config = HydraConfig.get()
        overrides = list(hydra_config.overrides.task)
        keys = [override.lstrip("+").split("=", 1)[0] for override in overrides]
        config, directory = _resolve_resume(_typed(composed), keys)
        if directory is None:
            name = config.env.id if "env.id" in keys else hydra_config.runtime.choices["env"]
            directory = run_directory(config, name, overrides)
        code = run_session(config, directory, join())
    except (ConfigError, EnvError, CheckpointError, BackendError, CredentialsError) as error:
        fail(error)
    except RanksError as error:
        fail(error, 1)
    except FloatingPointError as error:
        fail(f"training diverged: {error}; the last checkpoint is kept, try a lower optimizer.lr", 1)
    except OSError as error:
        fail(f"{error}; what was saved before is kept", 1)
    except (MemoryError, torch.OutOfMemoryError) as error:
        fail(f"not enough memory: {error}; try a smaller replay.capacity or world_model", 1)
    if code:
        sys.exit(code)


def _resolve_resume(config: Config, keys: list[str]) -> tuple[Config, Path | None]:
    """With resume=<dir>: that run's own config, except for the given keys, which must be free."""
    if config.resume is None:
        return config, None
    given = [key for key in keys if not is_hydras(key)]
    for key in given:
        if not is_free(key):
            raise ConfigError(
                f"resume={config.resume} takes {key} from the run; "
                f"only {', '.join(FREE[2:])} may be given with it"
            )
    values, now = asdict(read_config(Path(config.resume))), asdict(config)
    for key in given:
        *sections, last = key.split(".")
        old, new = values, now
        for section in sections:
            old, new = old[section], new[section]
        old[last] = new[last]
    return build(Config, values), Path(config.resume)


def _load(member: list[Override]) -> Config:
    return _typed(_compose_all(member))


def _typed(composed: DictConfig) -> Config:
    values = _resolved(composed)
    missing = [key for key, value in _flatten(values, "") if value == "???"]
    if missing:
        raise ConfigError(f"{missing[0]} must be given, as {missing[0]}=…")
    return build(Config, values)


def _resolved(composed: DictConfig) -> Any:
    """A plain dictionary, interpolations replaced; ??? stays."""
    try:
        return OmegaConf.to_container(composed, resolve=True)
    except OmegaConfBaseException as error:
        reason = str(error).split("\n")[0]
        raise ConfigError(f"{error.full_key or 'a setting'} cannot be resolved: {reason}") from error


def _compose_all(member: list[Override], resolve: bool = False) -> DictConfig:
    """One run's settings: Hydra composes the groups, once per choice; the others are set here."""
    outer = [o for o in member if o.key_or_group in groups() or is_hydras(o.key_or_group)]
    base, known = _compose(tuple(str(override.input_line).lstrip("+") for override in outer))
    composed = copy.deepcopy(base)
    for override in member:
        if override in outer:
            continue
        _check_key(override, known)
        key, value = override.key_or_group, override.value()
        try:
            OmegaConf.update(composed, key, value, force_add=is_open(key))
        except OmegaConfBaseException as error:
            raise ConfigError(f"{override.input_line}: {str(error).split(chr(10))[0]}") from error
    if resolve:
        _resolved(composed)
    return composed


@functools.cache
def _compose(outer: tuple[str, ...]) -> tuple[DictConfig, dict[str, bool]]:
    """Hydra's composition, and every dotted key in it with whether it is a section."""
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            composed = compose("config", overrides=list(outer))
        values: Any = OmegaConf.to_container(composed)
        return composed, {key: isinstance(value, dict) for key, value in _flatten(values, "")}
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(str(error).split("\n")[0]) from error


def _check_key(override: Override, known: dict[str, bool]) -> None:
    """Whether the key names one setting: not an unknown one, not a section."""
    key = override.key_or_group
    if is_open(key):
        return
    if key not in known:
        section, _, last = key.rpartition(".")
        siblings = {k.rpartition(".")[2]: k for k in known if k.rpartition(".")[0] == section}
        elsewhere = next((k for k in known if k.rpartition(".")[2] == last), None)
        near = closest(last, siblings)
        hint = did_you_mean(siblings[near] if near else elsewhere or closest(key, known, 0.7))
        keys = f"{section} has {', '.join(siblings)}" if section in known else "--cfg job shows all keys"
        raise ConfigError(f"unknown key {key}{hint}; {keys}")
    if known[key]:
        inner = next((other for other in known if other.startswith(f"{key}.")), f"{key}.<key>")
        raise ConfigError(
            f"{override.input_line} replaces a whole section: set its keys one by one, as {inner}=…"
        )


def _flatten(values: dict[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    """Every dotted key, the sections' included, with its value."""
    for key, value in values.items():
        yield f"{path}{key}", value
        if isinstance(value, dict):
            yield from _flatten(value, f"{path}{key}.")

"""Settings as they are written on a command line: read, and refused one by one where that is possible.

What can only be said about all of them together, composed, is `agents.cli.composition`'s business.
"""

import functools
import inspect
import itertools
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from qdreamer import configs
from qdreamer.configs.registry import Registry
from qdreamer.configs.schema import ConfigError, closest, did_you_mean, not_one_of, show

CONFIGS = Path(configs.__file__).parent
LAUNCHER = "launcher"  # the section of a sweep's own settings
KWARGS = "env.kwargs"
# The environment, or the agent that is made for it, alone knows their keys.
OPEN_SECTIONS = (KWARGS, "env.entries", "world_model.entry_scales", "optimizer.groups")
MAX_SWEEP = 1000  # runs; all of them are checked beforehand
_CONFIG = "qdreamer.agents.runs.config"  # where the sections are named; imported, it imports torch
_PATHS = ("resume", "runs", "replay.initial")  # may hold any sign: Hydra wants most of them quoted
SWEEP = ("-m", "--multirun")
SHOW = ("-c", "--cfg")  # followed by `job`, as Hydra's option of that name
HELP = ("-h", "--help")
RESOLVE = "--resolve"
REPAIR = "--repair"
_FLAGS = (*SWEEP, *SHOW, *HELP, RESOLVE, REPAIR)


def read(arguments: list[str]) -> tuple[list[str], list[Override]]:
    """Return flags, and settings that are well-formed each for itself. Raises ConfigError."""
    flags, texts = _split(arguments)
    overrides = [parse(text) for text in texts]
    sweep = any(flag in SWEEP for flag in flags)
    for override in overrides:
        check_form(override, sweep)
    first: dict[str, Override] = {}
    for override in overrides:
        other = first.setdefault(override.key_or_group, override)
        if other is not override:
            both = f"{other.input_line} and {override.input_line}"
            raise ConfigError(f"{override.key_or_group} is given twice ({both}): leave one out")
    return flags, overrides


def is_launchers(override: Override) -> bool:
    """Return whether a setting belongs to the sweep instead of a run."""
    return str(override.key_or_group).split(".")[0] == LAUNCHER


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return flags (without the word behind --cfg) and settings."""
    flags: list[str] = []
    texts: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        flag, _, value = argument.partition("=")
        if not argument.startswith("-"):
            texts.append(argument)
        elif flag in SHOW:
            value = value or next(rest, "")
            if value != "job":
                raise ConfigError(f"{flag} {value} is not one of job")
            flags.append(flag)
        elif argument in _FLAGS:
            flags.append(argument)
        else:
            hint = did_you_mean(closest(flag, [f for f in _FLAGS if f.startswith("--")], 0.75))
            raise ConfigError(
                f"unknown option {argument}{hint}; settings are written without dashes, as seed=3; see --help"
            )
    shown = any(flag in SHOW for flag in flags)
    if shown and any(flag in SWEEP for flag in flags):
        raise ConfigError("--cfg shows one run: leave out -m")
    if RESOLVE in flags and not shown:
        raise ConfigError("--resolve belongs to --cfg, as in --cfg job --resolve")
    return flags, texts


def parse(text: str) -> Override:
    """Read one setting. Raises ConfigError."""
    parser = OverridesParser.create()
    try:
        return parser.parse_override(text)
    except (HydraException, OmegaConfBaseException) as error:
        key, equals, value = text.partition("=")
        if key in _PATHS and "'" not in value and not value.endswith("\\"):
            return parser.parse_override(f"{key}='{value}'")
        if not equals:
            choice = next((f"{group}={text}" for group in groups() if text in groups()[group]), None)
            hint = did_you_mean(choice) or ", as seed=3"
            raise ConfigError(f"cannot read {text!r}: settings are written key=value{hint}") from error
        raise ConfigError(
            f"cannot read {text!r}: settings are written key=value, lists {key}=[1,2], "
            f"values with odd signs {key}=\"'…'\""
        ) from error


def format_override(override: Override) -> str:
    """Return key=value for Hydra, which wants `++` before keys of open sections, which no config can know."""
    text = str(override.input_line).lstrip("+")
    return f"++{text}" if is_open(override.key_or_group) else text


def is_open(key: str) -> bool:
    """Return whether a key is an open section or in one."""
    return key.startswith(tuple(f"{section}." for section in OPEN_SECTIONS)) or key in OPEN_SECTIONS


@functools.cache
def registries() -> dict[str, Registry[Any]]:
    """Return the sections that are parts', each with the registry that its `name` is looked up in."""
    from qdreamer.agents.runs.config import Config  # lazily: they take torch with them
    from qdreamer.agents.sweeps.sweep import SweepConfig

    hints = {key: hint for cls in (Config, SweepConfig) for key, hint in inspect.get_annotations(cls).items()}
    marks = [(key, mark) for key, hint in hints.items() for mark in getattr(hint, "__metadata__", ())]
    return {key: mark for key, mark in marks if isinstance(mark, Registry)}


def groups() -> dict[str, list[str]]:
    """Return every group with its choices: its files, and what was registered by third parties or here."""
    others: dict[str, set[str]] = {}
    if _strangers() or _CONFIG in sys.modules:  # else nobody has registered anything
        known = registries().items()
        others = {group: {*registry.third_party(), *registry.registered()} for group, registry in known}
    return {group: sorted(names | others.get(group, set())) for group, names in _files().items()}


@functools.cache
def _files() -> dict[str, set[str]]:
    """Return every group with the names of its files."""
    folders = sorted(path for path in CONFIGS.iterdir() if any(path.glob("*.yaml")))
    return {folder.name: {path.stem for path in folder.glob("*.yaml")} for folder in folders}


@functools.cache
def _strangers() -> bool:
    """Tell whether a package of a third party is installed that names parts."""
    return any(group.startswith("qdreamer.") for group in entry_points().groups)


def check_form(override: Override, sweep: bool) -> None:
    """Raises ConfigError for what can be seen to be wrong in a setting without the other ones."""
    key, text = override.key_or_group, override.input_line
    if not key:
        raise ConfigError(f"cannot read {text!r}: settings are written key=value, as seed=3")
    if override.is_delete():
        raise ConfigError(f"{text}: settings cannot be removed, only set, as {key}=…")
    if override.package is not None:
        raise ConfigError(f"{text}: a group has one place here, write {key}=… without @{override.package}")
    if is_launchers(override) and not sweep:
        raise ConfigError(f"{text}: only a sweep has a {LAUNCHER}, add -m")
    if is_launchers(override) and override.is_sweep_override():
        raise ConfigError(f"{text}: a sweep has one {LAUNCHER}")
    if key.startswith(("hydra.", "hydra/")):
        raise ConfigError(f"{text}: Hydra only composes settings here; sweeps are run by {LAUNCHER}=local, …")
    if override.is_sweep_override() and not sweep:
        as_list = "" if key in groups() else f"; a list is written {key}=[…]"
        raise ConfigError(f"{text}: several values need a sweep, add -m{as_list}")
    for value in (single.value() for single in _alternatives(override)):
        if key in groups():
            _check_choice(key, value, str(text))
        group = key.removesuffix(".name")
        if group != key and group in groups():
            choices = ", ".join(groups()[group])
            raise ConfigError(f"{text}: the name follows from {group}=…, which is one of {choices}")


def _check_choice(group: str, value: Any, text: str) -> None:
    choices = groups()[group]
    if isinstance(value, list | dict):
        raise ConfigError(f"{text}: {group} takes one choice; for a sweep write {group}=a,b with -m")
    if show(value) not in choices:
        import gymnasium  # lazily: it takes a while

        any_id = value if value in gymnasium.registry else "…"
        extra = f"; any Gymnasium environment: env=gym env.id={any_id}" if group == "env" else ""
        raise ConfigError(f"{group}={not_one_of(value, choices)}{extra}")


def _alternatives(override: Override) -> list[Override]:
    """Return the setting itself, or one for each value of a sweep."""
    if not override.is_sweep_override():
        return [override]
    key = override.key_or_group
    try:
        values = list(itertools.islice(override.sweep_string_iterator(), MAX_SWEEP + 1))
    except (HydraException, ValueError) as error:
        text = override.input_line
        raise ConfigError(f"{text}: a sweep lists its values, as {key}=a,b,c with -m") from error
    if not values:
        raise ConfigError(f"{override.input_line} has no values")
    return [parse(f"{key}={value}") for value in values]


def members(overrides: list[Override]) -> list[list[Override]]:
    """Return the settings of every run of the sweep; without one, of the only run."""
    options = [_alternatives(override) for override in overrides if not is_launchers(override)]
    found = [list(member) for member in itertools.islice(itertools.product(*options), MAX_SWEEP + 1)]
    if len(found) > MAX_SWEEP:
        raise ConfigError(f"the sweep has more than {MAX_SWEEP} runs: split it")
    return found

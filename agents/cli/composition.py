"""From the settings of one run to its typed config: Hydra composes the groups, once per choice."""

import copy
import functools
from typing import TYPE_CHECKING, Any, TypeVar

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from qdreamer.agents.cli.overrides import CONFIGS, groups, is_open, parse, registries
from qdreamer.configs.schema import ConfigError, build, closest, did_you_mean, dotted

if TYPE_CHECKING:
    from qdreamer.agents.runs.config import Config

T = TypeVar("T")
RUN_FILE, SWEEP_FILE = "config", "sweep"  # of configs/, where compositions begin


def load_config(overrides: list[str]) -> "Config":
    """Compose and check one run's config. Raises ConfigError."""
    from qdreamer.agents.runs.config import Config  # lazily: it takes torch with it

    return typed(Config, compose_all([parse(text) for text in overrides]))


def typed(cls: type[T], composed: DictConfig) -> T:
    """Return the config of what was composed. Raises ConfigError."""
    values = resolved(composed)
    for key, value in dotted(values).items():
        if value == "???":
            raise ConfigError(f"{key} must be given, as {key}=…")
    return build(cls, values)


def resolved(composed: DictConfig) -> Any:
    """Return a plain dictionary, interpolations replaced; ??? stays. Raises ConfigError."""
    try:
        return OmegaConf.to_container(composed, resolve=True)
    except OmegaConfBaseException as error:
        reason = str(error).split("\n")[0]
        raise ConfigError(f"{error.full_key or 'a setting'} cannot be resolved: {reason}") from error


def compose_all(overrides: list[Override], name: str = RUN_FILE) -> DictConfig:
    """Return the settings of configs/<name>.yaml, changed by overrides. Raises ConfigError.

    Choices of groups are Hydra's to compose; single settings are put into its result here, so that a sweep
    over seeds composes once.
    """
    base, known = _chosen(name, overrides)
    composed = copy.deepcopy(base)
    for override in overrides:
        if override.key_or_group in groups():
            continue
        _check_key(override, known)
        key, value = override.key_or_group, override.value()
        try:
            OmegaConf.update(composed, key, value, force_add=is_open(key))
        except OmegaConfBaseException as error:
            raise ConfigError(f"{override.input_line}: {str(error).split(chr(10))[0]}") from error
    return composed


def unknown_to_some(runs: list[list[Override]]) -> list[list[Override]]:
    """Return, for every run of a sweep, its settings whose keys only other runs of it have."""
    found = []
    for run in runs:
        known = _chosen(RUN_FILE, run)[1]
        found.append([o for o in run if o.key_or_group not in known and not is_open(o.key_or_group)])
    nowhere = set.intersection(*({str(o.key_or_group) for o in unknown} for unknown in found))
    return [[o for o in unknown if o.key_or_group not in nowhere] for unknown in found]


def _chosen(name: str, overrides: list[Override]) -> tuple[DictConfig, dict[str, Any]]:
    return _compose(
        name, tuple((o.key_or_group, str(o.value())) for o in overrides if o.key_or_group in groups())
    )


@functools.cache
def _compose(name: str, choices: tuple[tuple[str, str], ...]) -> tuple[DictConfig, dict[str, Any]]:
    """Return Hydra's composition, and every dotted key in it with its value."""
    for group, choice in choices:
        if not (CONFIGS / group / f"{choice}.yaml").exists():
            ConfigStore.instance().store(choice, _third_party(group, choice), group)
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            composed = compose(name, overrides=[f"{group}={choice}" for group, choice in choices])
        values: Any = OmegaConf.to_container(composed)
        return composed, dotted(values)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(str(error).split("\n")[0]) from error


def _third_party(group: str, choice: str) -> dict[str, Any]:
    """Return the section of a part without a file: its config's defaults, or else what the group's plainest
    part has.
    """
    registry = registries()[group]
    plain: Any = OmegaConf.to_container(OmegaConf.load(CONFIGS / group / f"{registry.plain}.yaml"))
    defaults = registry.defaults(choice)
    return {key: plain.get(key, value) if value == "???" else value for key, value in defaults.items()}


def _check_key(override: Override, known: dict[str, Any]) -> None:
    """Raises ConfigError unless the key names one setting: not an unknown one, not a section."""
    key = override.key_or_group
    if is_open(key):
        return
    if key not in known:
        section, _, last = key.rpartition(".")
        siblings = {k.rpartition(".")[2]: k for k in known if k.rpartition(".")[0] == section}
        elsewhere = next((k for k in known if k.rpartition(".")[2] == last), None)
        near = closest(last, siblings)
        hint = did_you_mean(siblings[near] if near else elsewhere or closest(key, known, 0.7))
        if owners := _choices_with(section, last):
            hint = f", which {section}={', '.join(owners)} has"
        keys = f"{section} has {', '.join(siblings)}" if section in known else "--cfg job shows all keys"
        raise ConfigError(f"unknown key {key}{hint}; {keys}")
    if isinstance(known[key], dict):
        inner = [other for other in known if other.rpartition(".")[0] == key] or [f"{key}.<key>"]
        raise ConfigError(
            f"{override.input_line} replaces a whole section: set its keys one by one, as {inner[0]}=…"
            f" (it has {', '.join(other.rpartition('.')[2] for other in inner)})"
        )


def _choices_with(group: str, key: str) -> list[str]:
    """Return the choices of a group, if it is one, whose files give a key a value."""
    files = {name: CONFIGS / group / f"{name}.yaml" for name in groups().get(group, ())}
    texts = {name: path.read_text(encoding="utf-8") for name, path in files.items() if path.exists()}
    own = [name for name, text in texts.items() if "@package _global_" not in text]  # presets set others'
    return [name for name in own if key != "defaults" and key in OmegaConf.create(texts[name])]


def default_choice(group: str) -> str:
    """Return the choice of a group that configs/config.yaml names."""
    defaults = OmegaConf.load(CONFIGS / f"{RUN_FILE}.yaml").defaults
    return str(next(entry[group] for entry in defaults if group in entry))

"""Settings of a command line that nothing in the run would read, and what would make them count.

What a run reads is derived by making its parts (`agents.training.rehearsal`). Presets may set what a given
agent does not read; what a user wrote may not.
"""

import dataclasses
import typing
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, Literal

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from qdreamer.agents.cli.composition import compose_all, typed
from qdreamer.agents.cli.overrides import groups, parse
from qdreamer.agents.runs.config import Config
from qdreamer.agents.training.rehearsal import PARTS, keys_read
from qdreamer.configs.registry import Registry
from qdreamer.configs.schema import ConfigError, dotted
from qdreamer.quantum.circuits.backend import BackendError, CredentialsError

READERS: dict[str, tuple[str, ...]] = {
    "attention": ("sequence",),
    "world_model": ("sequence",),
    "sequence": ("attention",),
    "replay": ("replay",),
    "optimizer": ("optimizer",),
    "quantum": ("replay", "optimizer", "quantum"),
    "weights": ("weights",),
    "heads": ("heads",),
}
"""Where a hint is looked for: groups whose other choices may read a section's settings."""
BACKENDS: dict[str, tuple[str, ...]] = {"replay": ("quantum",), "optimizer": ("quantum",)}
"""Where it is looked for last: to make these parts, packages are imported that take seconds."""
_PRESETS = ("env", "agent")  # they set what several sections read

_known: dict[str, frozenset[str]] = {}  # what runs of a config read, by its text


def unread(overrides: Sequence[Override], composed: DictConfig, config: Config) -> list[Override]:
    """Return those settings of a run that it does not read. `composed` is what they were composed to."""
    asked = [override for override in overrides if _asked(override.key_or_group)]
    if not asked:
        return []
    raw: Any = OmegaConf.to_container(composed)
    read = _read(config)
    return [override for override in asked if not _counts(override.key_or_group, raw, read)]


def refuse(found: Sequence[tuple[Override, list[Override]]]) -> None:
    """Refuse settings without effect, unless they write out what holds without them.

    Args:
        found: such settings, each with all settings of its run.

    Raises ConfigError that says of every key what would make it count.
    """
    reasons: dict[str, str] = {}
    for override, run in found:
        key = str(override.key_or_group)
        if key in reasons:
            continue
        if (other := _replaced(override, run)) is not None:
            reasons[key] = f"{override.input_line} has no effect: {other.input_line} replaces it"
        elif _changes(override, run):
            reasons[key] = f"{override.input_line} has no effect: {_reason(key, run)}"
    if reasons:
        raise ConfigError("; ".join(reasons.values()))


def check_lengths(config: Config, keys: Sequence[str]) -> None:
    """Raises ConfigError for lengths, set by `keys`, at which nothing is learned, evaluated or drawn."""
    train, every, steps = config.train, config.evaluation.every, config.steps
    if not train.collect and "train.prefill" in keys:
        raise ConfigError(
            "train.prefill has no effect with train.collect=false: no step is one of the environment"
        )
    if not train.collect and train.pink_noise and "train.pink_noise" in keys:
        raise ConfigError("train.pink_noise has no effect with train.collect=false: no action is taken")
    learns = train.begin < steps or train.replay_ratio == 0.0
    if config.resume is None and not learns and {"steps", "env.steps", "train.prefill"} & set(keys):
        raise ConfigError(
            f"train.prefill={train.prefill} leaves nothing to learn in steps={steps}: "
            f"use more steps, or train.prefill={steps // 2}"
        )
    if every > steps and "evaluation.every" in keys:
        raise ConfigError(
            f"evaluation.every={every} never comes in steps={steps}: use at most evaluation.every={steps}"
        )


def _asked(key: str) -> bool:
    section, dot, _ = key.partition(".")
    return section in PARTS and (bool(dot) or section not in _PRESETS)


def _read(config: Config) -> frozenset[str]:
    """Return what runs of a config read; seed and length of a run change nothing about it."""
    text = repr(dataclasses.replace(config, seed=0, steps=1, runs="", resume=None))
    if text not in _known:
        try:
            _known[text] = keys_read(config)
        except (ValueError, OSError, BackendError, CredentialsError):  # ConfigError, EnvError, …: one line
            raise
        except Exception as error:  # whatever a part raises for settings that it cannot be made of
            raise ConfigError(f"these settings make no run: {type(error).__name__}: {error}") from error
    return _known[text]


def _counts(key: str, raw: dict[str, Any], read: frozenset[str]) -> bool:
    """Tell whether a setting, or another whose value is taken from it, is read."""
    if "." not in key and "name" in raw[key]:  # a group is read where its part is made, by its name
        return f"{key}.name" in read
    return any(
        target.partition(".")[0] not in PARTS
        or any(f"{name}.".startswith(f"{target}.") or target.startswith(f"{name}.") for name in read)
        for target in _followers(key, raw)
    )


def _followers(key: str, raw: dict[str, Any]) -> list[str]:
    """Return a key, or a group's keys, and all keys whose values are interpolated from them."""
    flat = dotted(raw)
    found = [name for name in flat if name.startswith(f"{key}.")] or [key]
    references = {name: value for name, value in flat.items() if isinstance(value, str) and "${" in value}
    for name in found:  # which grows
        found += [k for k, value in references.items() if f"${{{name}}}" in value and k not in found]
    return found


def _changes(override: Override, run: list[Override]) -> bool:
    """Tell whether a setting changes what the run is composed to."""
    with suppress(ConfigError):  # other settings stand on this choice
        return _raw(run) != _raw([o for o in run if o is not override])
    return True


def _raw(overrides: list[Override]) -> dict[str, Any]:
    return typing.cast(Any, OmegaConf.to_container(compose_all(overrides)))


def _replaced(override: Override, run: list[Override]) -> Override | None:
    """Return the setting whose value, were it not given, would be taken from this one."""
    key = str(override.key_or_group)
    for other in run:
        if not {key, other.key_or_group} & set(groups()):
            without = [o for o in run if o is not other]
            if other.key_or_group in _followers(key, _raw(without))[1:] and _would_read(key, without):
                return other
    return None


def _reason(key: str, run: list[Override]) -> str:
    """Return what would make a setting count that a run does not read, and what is alike in it."""
    readers = _readers(key, run)
    who = f"{key} is read only by {readers}" if readers else f"nothing in this run reads {key}"
    word = f".{key.rpartition('.')[2]}"
    here = sorted(name for name in _read(typed(Config, compose_all(run))) if name.endswith(word))
    return f"{who}; this run reads {', '.join(here)}" if here and "." in key else who


def _readers(key: str, overrides: Sequence[Override]) -> str:
    """Return the choices, of groups or else of the key's own section, with which a run would read it."""
    found: dict[str, list[str]] = defaultdict(list)
    for swaps in (_group_swaps(key, READERS), _section_swaps(key, overrides), _group_swaps(key, BACKENDS)):
        for name, choice in swaps:
            if _would_read(
                key, [*(o for o in overrides if o.key_or_group != name), parse(f"{name}={choice}")]
            ):
                found[name].append(choice)
        if found:
            break
    return " or ".join(f"{name}={', '.join(choices)}" for name, choices in found.items())


def _would_read(key: str, overrides: list[Override]) -> bool:
    with suppress(
        ValueError, OSError, BackendError, CredentialsError
    ):  # ConfigError, EnvError, … : no reader
        composed = compose_all(overrides)
        config = typed(Config, composed)
        if not config.quantum.remote:  # services are not asked for a hint
            return _counts(key, typing.cast(Any, OmegaConf.to_container(composed)), _read(config))
    return False


def _group_swaps(key: str, readers: dict[str, tuple[str, ...]]) -> Iterator[tuple[str, str]]:
    section = key.partition(".")[0]
    for group in readers.get(section, ()):
        if group != section or "." in key:
            yield from ((group, choice) for choice in groups()[group])


def _section_swaps(key: str, overrides: Sequence[Override]) -> Iterator[tuple[str, str]]:
    """Yield other words for the choices in the key's own section, and something where there is nothing."""
    section = key.partition(".")[0]
    config = getattr(typed(Config, compose_all(list(overrides))), section)
    for name, hint in typing.get_type_hints(type(config), include_extras=True).items():
        marks = getattr(hint, "__metadata__", ())
        plain = hint.__origin__ if marks else hint
        value = getattr(config, name, None)
        choices: Sequence[Any] = ()
        if name == "name" or f"{section}.{name}" == key:
            continue
        if typing.get_origin(plain) is Literal:
            choices = typing.get_args(plain)
        elif any(isinstance(mark, Registry) for mark in marks):
            choices = next(mark for mark in marks if isinstance(mark, Registry)).names()
        elif isinstance(value, bool):
            choices = ("false",) if value else ("true",)
        elif value == 0 and isinstance(value, int | float):
            choices = ("1",)
        yield from ((f"{section}.{name}", str(choice)) for choice in choices if choice != value)

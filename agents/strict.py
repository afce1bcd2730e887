"""From a plain dictionary to frozen dataclasses, or one clear line about what is wrong.

Every key must exist, every value must have the declared type and lie in the range that the
field's metadata names (min, max, above, below, choices).
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class ConfigError(ValueError):
    """A setting that cannot be used; the message is one line and names the fix."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """' (did you mean X?)' for the choice nearest to `word`, or ''."""
    lowered = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.5)
    return f" (did you mean {lowered[near[0]]}?)" if near else ""


def build(cls: type[T], values: Mapping[str, Any], path: str = "") -> T:
    """An instance of the dataclass `cls` from `values`.

    Raises ConfigError, whose message starts with the full path of the offending key.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in fields:
            full, where = f"{path}{key}", f" in {path[:-1]}" if path else ""
            raise ConfigError(f"unknown key {full}{nearest(key, fields)}; keys{where}: {', '.join(fields)}")
    for key in fields:
        if key not in values:
            raise ConfigError(f"{path}{key} is missing")
    arguments = {
        key: _convert(hints[key], values[key], f"{path}{key}", dict(field.metadata))
        for key, field in fields.items()
    }
    try:
        return cls(**arguments)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _convert(hint: Any, value: Any, path: str, limits: dict[str, Any]) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ConfigError(
                f"{path}={value!r} replaces a whole section: set one of its keys instead, as {path}.<key>=…"
            )
        return build(typing.cast(type, hint), value, f"{path}.")
    if origin in (types.UnionType, typing.Union):  # X | None
        if value is None:
            return None
        inner = next(a for a in arguments if a is not type(None))
        return _convert(inner, value, path, limits)
    if origin is tuple:
        return _convert_tuple(arguments, value, path, limits)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path}={value!r} must be a mapping, as {path}.<key>=…")
        return {str(k): _convert(arguments[1], v, f"{path}.{k}", limits) for k, v in value.items()}
    if hint is Any:
        return value
    return _check(_scalar(hint, value, path), path, limits)


def _convert_tuple(
    arguments: tuple[Any, ...], value: Any, path: str, limits: dict[str, Any]
) -> tuple[Any, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable) or isinstance(value, Mapping):
        raise ConfigError(f"{path}={value!r} must be a list, as {path}=[1,2]")
    items = list(value)
    if arguments[-1] is not Ellipsis and len(items) != len(arguments):
        raise ConfigError(f"{path}={items} must have {len(arguments)} entries")
    kinds = [arguments[0]] * len(items) if arguments[-1] is Ellipsis else list(arguments)
    return tuple(
        _convert(kind, item, f"{path}[{i}]", limits)
        for i, (kind, item) in enumerate(zip(kinds, items, strict=True))
    )


_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}


def _scalar(hint: Any, value: Any, path: str) -> Any:
    wrong = ConfigError(f"{path}={value!r} must be {_NAMES[hint]}")
    if hint is bool:
        if not isinstance(value, bool):
            raise wrong
        return value
    if hint is str:
        if not isinstance(value, str):
            raise wrong
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong
    if hint is int:
        if value != value or math.isinf(value) or int(value) != value:
            raise wrong
        return int(value)
    if not math.isfinite(value):
        raise ConfigError(f"{path}={value!r} must be finite")
    return float(value)


def _check(value: Any, path: str, limits: dict[str, Any]) -> Any:
    if "choices" in limits and value not in limits["choices"]:
        choices = limits["choices"]
        raise ConfigError(f"{path}={value} is not one of {', '.join(choices)}{nearest(str(value), choices)}")
    bounds = {
        "min": (lambda v, b: v >= b, "at least"),
        "max": (lambda v, b: v <= b, "at most"),
        "above": (lambda v, b: v > b, "greater than"),
        "below": (lambda v, b: v < b, "less than"),
    }
    for name, (holds, words) in bounds.items():
        if name in limits and not holds(value, limits[name]):
            raise ConfigError(f"{path}={value} must be {words} {limits[name]}")
    return value

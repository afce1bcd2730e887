"""From a plain dictionary to frozen dataclasses, or one clear line about what is wrong.

Every key must exist, every value must have the declared type and lie in the range that the
field's metadata names (min, max, above, below, choices). A section of several kinds is typed by a
union of dataclasses, told apart by their `name`.
"""

import dataclasses
import difflib
import math
import operator
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")
MAX_INT = 2**31 - 1  # beyond it torch and numpy fail in many places, none of them with a clear word


class ConfigError(ValueError):
    """A setting that cannot be used; the message is one line and names the fix."""


def closest(word: str, choices: Iterable[str], cutoff: float = 0.5) -> str | None:
    """The choice nearest to `word`, if one is near at all."""
    lowered = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=cutoff)
    return lowered[near[0]] if near else None


def did_you_mean(choice: str | None) -> str:
    """' (did you mean X?)', or nothing."""
    return "" if choice is None else f" (did you mean {choice}?)"


def show(value: Any) -> str:
    """A value as it is written on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{k}:{show(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(show, value))}]"
    if isinstance(value, float):
        return f"{value:.15g}"
    return str(value)


def build(cls: type[T], values: Mapping[str, Any], path: str = "") -> T:
    """An instance of the dataclass `cls` from `values`.

    Raises ConfigError, whose message starts with the full path of the offending key.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in fields:
            full, where = f"{path}{key}", f" in {path[:-1]}" if path else ""
            hint = did_you_mean(closest(str(key), fields))
            raise ConfigError(f"unknown key {full}{hint}; keys{where}: {', '.join(fields)}")
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
                f"{path}={show(value)} replaces a whole section: set its keys instead, as {path}.<key>=…"
            )
        return build(typing.cast(type, hint), value, f"{path}.")
    if origin in (types.UnionType, typing.Union):  # X | None
        if all(map(dataclasses.is_dataclass, arguments)):
            return _convert(_named(arguments, value, path), value, path, limits)
        if value is None:
            return None
        inner = next(a for a in arguments if a is not type(None))
        try:
            return _convert(inner, value, path, limits)
        except ConfigError as error:
            raise ConfigError(f"{error}, or null") from error
    if origin is tuple:
        return _convert_tuple(arguments, value, path, limits)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path}={show(value)} must be a mapping, as {path}.<key>=…")
        return {str(k): _convert(arguments[1], v, f"{path}.{k}", limits) for k, v in value.items()}
    if hint is Any:
        return value
    return _check(_scalar(hint, value, path), path, limits)


def _named(classes: tuple[Any, ...], value: Any, path: str) -> Any:
    """Of several dataclasses, the one whose `name` may be that of the section `value`."""
    choices = {
        choice: cls
        for cls in classes
        for field in dataclasses.fields(cls)
        if field.name == "name"
        for choice in field.metadata["choices"]
    }
    name = value.get("name") if isinstance(value, Mapping) else None
    if name is None:  # the section itself is what is wrong
        return classes[0]
    _check(_scalar(str, name, f"{path}.name"), f"{path}.name", {"choices": tuple(choices)})
    return choices[name]


def _convert_tuple(
    arguments: tuple[Any, ...], value: Any, path: str, limits: dict[str, Any]
) -> tuple[Any, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable) or isinstance(value, Mapping):
        raise ConfigError(f"{path}={show(value)} must be a list, as {path}=[…]")
    items = list(value)
    if arguments[-1] is not Ellipsis and len(items) != len(arguments):
        raise ConfigError(f"{path}={show(items)} must have {len(arguments)} entries")
    kinds = [arguments[0]] * len(items) if arguments[-1] is Ellipsis else list(arguments)
    return tuple(
        _convert(kind, item, f"{path}[{i}]", limits)
        for i, (kind, item) in enumerate(zip(kinds, items, strict=True))
    )


_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}


def _scalar(hint: Any, value: Any, path: str) -> Any:
    wrong = ConfigError(f"{path}={show(value)} must be {_NAMES[hint]}")
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
        if isinstance(value, float) and not value.is_integer():  # false for infinity and nan too
            raise wrong
        if abs(value) > MAX_INT:
            raise ConfigError(f"{path}={show(value)} must lie within ±{MAX_INT}")
        return int(value)
    try:
        number = float(value)
    except OverflowError:  # a whole number beyond what a float holds
        number = math.inf
    if not math.isfinite(number):
        raise ConfigError(f"{path}={show(value)} must be finite")
    return number


_BOUNDS: dict[str, tuple[Callable[[Any, Any], bool], str]] = {
    "min": (operator.ge, "at least"),
    "max": (operator.le, "at most"),
    "above": (operator.gt, "greater than"),
    "below": (operator.lt, "less than"),
}


def _check(value: Any, path: str, limits: dict[str, Any]) -> Any:
    if "choices" in limits and value not in limits["choices"]:
        choices = limits["choices"]
        hint = did_you_mean(closest(value, choices))
        raise ConfigError(f"{path}={value} is not one of {', '.join(choices)}{hint}")
    for name, (holds, words) in _BOUNDS.items():
        if name in limits and not holds(value, limits[name]):
            raise ConfigError(f"{path}={show(value)} must be {words} {show(limits[name])}")
    return value

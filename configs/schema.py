"""From a plain dictionary to a typed, frozen config, or one clear line about what is wrong.

A config is a class under `@settings`: a pydantic dataclass whose fields are given by keyword, where nothing
extra is taken. Its numbers are `Int`, `Float` and `Bool`, which take what a YAML file or a command line
writes for a number (1e4 is whole) and nothing that only resembles one ("3", true); its ranges are
`Field(ge=…, lt=…)`, its choices `Literal[…]`, and a part that is chosen by name is `Annotated[…, REGISTRY]`
(`configs.registry`).
"""

import dataclasses
import difflib
import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, TypeVar, dataclass_transform

import pydantic.dataclasses
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

T = TypeVar("T")
MAX_INT = 2**31 - 1  # beyond it torch and numpy fail in many places, none of them with a clear word


# Sizes at which a setting is a slip of the keyboard.
WIDEST, DEEPEST, LONGEST = 2**16, 64, 2**16  # of layers, stacks of them, and sequences and batches


class ConfigError(ValueError):
    """A setting that cannot be used; the message is one line and names the fix."""


class UnknownWordError(ConfigError):
    """A word that names no part that is registered by now; the nearest one, if any, comes last."""


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(Field,))
def settings(cls: type[T]) -> type[T]:
    """Make a frozen config of a class: see the module's docstring."""
    for name in inspect.get_annotations(cls):
        if isinstance(getattr(cls, name, None), property):  # which would hide the field's value
            raise TypeError(f"{cls.__name__}.{name} hides a property of its base: choose another name")
    make = pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
    return typing.cast(type[T], make(cls))


def _whole(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and abs(value) > MAX_INT:
        raise PydanticCustomError("phrase", "must lie within ±{limit}", {"limit": MAX_INT})
    return value


def _finite(value: Any) -> Any:
    try:
        return float(value) if type(value) is int else value
    except OverflowError:  # a whole number beyond what a float holds
        return float("inf")


Int = Annotated[int, Field(strict=True), BeforeValidator(_whole)]
Float = Annotated[float, Field(strict=True, allow_inf_nan=False), BeforeValidator(_finite)]
Bool = Annotated[bool, Field(strict=True)]


def _by_path(values: Any, path: str = "") -> Any:
    if not isinstance(values, Mapping):
        return values
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _by_path(value, f"{path}{key}/") if isinstance(value, Mapping) else {f"{path}{key}": value}
    return flat


ByPath = Annotated[dict[str, T], BeforeValidator(_by_path)]
"""Values by path: {a: {b: 1}}, which section.a.b=1 on a command line gives, counts as {a/b: 1}."""


def one_of(choices: Callable[[], Iterable[str]]) -> AfterValidator:
    """Validate a word, in `Annotated[str, one_of(…)]`, by what `choices` gives when it is asked."""

    def check(word: str) -> str:
        if word not in (known := list(choices())):
            raise PydanticCustomError("choice", "{said}", {"said": not_one_of(word, known)})
        return word

    return AfterValidator(check)


def build(cls: type[T], values: Mapping[str, Any], path: str = "") -> T:
    """Make an instance of the config `cls` from `values`; `path` is where they stand, as "optimizer.".

    Raises ConfigError, whose message starts with the full path of the offending key.
    """
    try:
        return typing.cast(T, _adapter(typing.cast(Any, cls)).validate_python(dict(values)))
    except ValidationError as error:
        found = error.errors(include_url=False)
        first = next((e for e in found if e["type"] in _UNKNOWN), found[0])
        unknown = isinstance(first.get("ctx", {}).get("error"), UnknownWordError)
        kind = UnknownWordError if unknown or first["type"] == "choice" else ConfigError
        raise kind(_explain(cls, first, path)) from error


def check_keys(path: str, values: Mapping[str, Any], keys: Iterable[str]) -> None:
    """Raises ValueError unless the keys of `values` are exactly `keys`."""
    wrong = sorted(set(values) ^ set(keys))
    if wrong:
        raise ValueError(f"{path} must have exactly the keys {', '.join(keys)}: check {', '.join(wrong)}")


def closest(word: str, choices: Iterable[str], cutoff: float = 0.5) -> str | None:
    """Return the choice nearest to `word`, if one is near at all."""
    lowered = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=cutoff)
    return lowered[near[0]] if near else None


HINT = " (did you mean "


def did_you_mean(choice: str | None) -> str:
    """Return ' (did you mean X?)', or nothing."""
    return "" if choice is None else f"{HINT}{choice}?)"


def dotted(values: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Return every dotted key of nested sections with its value, the sections' own included."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found[f"{path}{key}"] = value
        found |= dotted(value, f"{path}{key}.") if isinstance(value, Mapping) else {}
    return found


def not_one_of(value: Any, choices: Iterable[str]) -> str:
    """Return what to say, after the key and an equals sign, of a value that is none of `choices`."""
    choices = list(choices)
    hint = did_you_mean(closest(show(value), choices))
    return f"{show(value)} is not one of {', '.join(choices)}{hint}"


def show(value: Any) -> str:
    """Return a value as it is written on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{k}:{show(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(show, value))}]"
    if isinstance(value, float):
        return f"{value:.15g}"
    return str(value)


@functools.cache
def _adapter(cls: Any) -> TypeAdapter[Any]:
    return TypeAdapter(cls)


_UNKNOWN = ("unexpected_keyword_argument", "invalid_key")
_SAID = {  # of pydantic's types of errors; ints come as int_type, int_from_float, …
    "int": "must be a whole number",
    "float": "must be a number",
    "bool": "must be true or false",
    "string": "must be a word",
    "finite_number": "must be finite",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "greater_than": "must be greater than {gt}",
    "less_than": "must be less than {lt}",
    "tuple": "must be a list, as {path}=[…]",
    "too_long": "must have {max_length} entries",
    "too_short": "must name at least {min_length}",
    "dict": "must be a mapping, as {path}.<key>=…",
    "dataclass": "replaces a whole section: set its keys instead, as {path}.<key>=…",
}


def _explain(cls: type, error: ErrorDetails, start: str) -> str:
    """Return one line for one of pydantic's errors in values that stand at `start`."""
    kind, where, context = error["type"], error["loc"], error.get("ctx", {})
    if kind == "value_error":  # a config's own check names its keys itself
        return str(context["error"])
    holder = _annotation(cls, where[:-1])
    if kind == "missing" and typing.get_origin(holder) is tuple:  # an entry of a list
        kind, where, context = "too_long", where[:-1], {"max_length": len(typing.get_args(holder))}
    where = (*where[:-1], str(where[-1])) if kind in _UNKNOWN else where
    path = start + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in where).lstrip(".")
    if kind in _UNKNOWN:
        fields, section = [field.name for field in dataclasses.fields(holder)], path.rpartition(".")[0]
        hint, place = did_you_mean(closest(str(where[-1]), fields)), f" in {section}" if section else ""
        return f"unknown key {path}{hint}; keys{place}: {', '.join(fields)}"
    if kind == "missing":
        return f"{path} is missing"
    if kind == "literal_error":
        choices = re.findall("'([^']*)'", context["expected"])
        return f"{path}={not_one_of(error['input'], choices)}"
    if kind == "choice":
        return f"{path}={error['msg']}"
    said = next((words for name, words in _SAID.items() if kind.startswith(name)), error["msg"])
    numbers = {name: show(value) for name, value in context.items()}
    optional = ", or null" if type(None) in typing.get_args(_annotation(cls, where, whole=True)) else ""
    return f"{path}={show(error['input'])} {said.format(path=path, **numbers)}{optional}"


def _annotation(cls: Any, where: tuple[int | str, ...], whole: bool = False) -> Any:
    """Return the type at a location inside of `cls`, without the `| None` around it unless `whole`."""
    hint = cls
    for key in where:
        hint = _required(hint)
        if dataclasses.is_dataclass(hint):
            hint = typing.get_type_hints(hint).get(str(key), Any)
        else:  # of tuple[X, Y], tuple[X, ...] or dict[str, X]
            arguments = typing.get_args(hint) or (Any,)
            hint = arguments[key] if isinstance(key, int) and Ellipsis not in arguments else arguments[-1]
            hint = arguments[0] if hint is Ellipsis else hint
    return hint if whole else _required(hint)


def _required(hint: Any) -> Any:
    """Return X for X | None."""
    union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    return next(a for a in typing.get_args(hint) if a is not type(None)) if union else hint

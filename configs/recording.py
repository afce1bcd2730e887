"""A config that notes which of its settings are read.

`recording(config)` returns a likeness of a config, of the same class for all who ask, and the set into which
every leaf goes that is read from it, as "optimizer.lr". Keys of a mapping are noted one by one.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, TypeVar, cast

T = TypeVar("T")


def recording(config: T, path: str = "") -> tuple[T, set[str]]:
    """Return a likeness of a config that stands at `path`, as "optimizer.", and the leaves read from it."""
    read: set[str] = set()
    return cast(T, _view(config, read, path)), read


def leaves(config: Any, path: str = "") -> dict[str, Any]:
    """Return every leaf of a config with its value; those of mappings one by one."""
    if dataclasses.is_dataclass(config):
        items = [(f.name, getattr(config, f.name)) for f in dataclasses.fields(config)]
    elif isinstance(config, dict) and config:
        items = [(str(key).replace("/", "."), value) for key, value in config.items()]
    else:
        return {path.removesuffix("."): config}
    found: dict[str, Any] = {}
    for name, value in items:
        found |= leaves(value, f"{path}{name}.")
    return found


class _Mapping(dict[str, Any]):
    """A mapping that notes its keys as they are looked up; a walk over it reads them all."""

    def __init__(self, values: dict[str, Any], read: set[str], path: str) -> None:
        super().__init__({key: _view(value, read, f"{path}{key}.") for key, value in values.items()})
        self._read, self._path = read, path

    def _note(self, key: str) -> None:
        if not dataclasses.is_dataclass(dict.get(self, key)):
            self._read.add(f"{self._path}{key}".replace("/", "."))

    def __getitem__(self, key: str) -> Any:
        self._note(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self._note(key)
        return super().get(key, default)

    def __iter__(self) -> Iterator[str]:
        for key in super().__iter__():
            self._note(key)
            yield key

    def items(self) -> Any:
        return [(key, self[key]) for key in self]

    def values(self) -> Any:
        return [self[key] for key in self]


def _view(value: Any, read: set[str], path: str) -> Any:
    if isinstance(value, dict):
        return _Mapping(value, read, path)
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    cls: Any = type(value)
    sections = {f.name: _view(getattr(value, f.name), read, f"{path}{f.name}.") for f in _fields(cls)}
    plain = {name for name, own in sections.items() if own is getattr(value, name)}

    def look_up(self: Any, name: str) -> Any:
        if name in plain:
            read.add(f"{path}{name}")
        return object.__getattribute__(self, name)

    likeness: Any = object.__new__(type(cls.__name__, (cls,), {"__getattribute__": look_up}))
    for name, own in sections.items():
        object.__setattr__(likeness, name, own)
    return likeness


def _fields(cls: Any) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(cls)

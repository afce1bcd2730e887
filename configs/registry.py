"""Parts that a user chooses by name, each registered where it is defined.

    ATTENTION: Registry[type[AttentionKernel]] = Registry("attention", "qdreamer.worldmodel.attention")

    @settings
    class CoherentConfig(AttentionConfig): ...

    @ATTENTION.register("coherent", CoherentConfig)
    class Coherent(AttentionKernel): ...

Looking a name up imports the modules of the registry's package, so these import heavy libraries only where
they use them. A package of a third party names its parts as entry points, here of the group
`qdreamer.attention`: the entry point's name is the part's name, and loading its object registers it.
In a config, `Annotated[AttentionConfig, ATTENTION]` is the section of whichever part its `name` says, and
`Annotated[str, SOLVERS]` a part's name alone.
"""

import functools
import importlib
import pkgutil
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any, ClassVar, Generic, TypeVar

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema
from pydantic_core.core_schema import ValidationInfo, with_info_before_validator_function

from qdreamer.configs.schema import ConfigError, UnknownWordError, build, not_one_of, one_of, settings

P = TypeVar("P")  # what is registered: a class, or a function that makes the part
Q = TypeVar("Q")
_VALUES = ("null", "true", "false", "nan", "inf")


@settings
class PartConfig:
    """The settings of a part that has a section of its own."""

    name: str
    kept: ClassVar[bool] = True  # whether the part may keep this and read it later; else it is handed values

    def check(self, root: Any) -> None:
        """Raises ValueError if the part does not go with the other sections of the whole config `root`."""


@dataclass(frozen=True)
class Entry(Generic[P]):
    """A registered part; `config` is None for parts that are named inside of another's section."""

    part: P
    config: type[PartConfig] | None


class Registry(Generic[P]):
    """The parts of one kind.

    Args:
        kind: as in the entry points' group, `qdreamer.<kind>`. package: whose modules register parts.
        plain: the part whose values fill in what the config of a third party's part leaves open.
    """

    def __init__(self, kind: str, package: str, plain: str = "") -> None:
        self.kind, self._package, self.plain = kind, package, plain
        self._entries: dict[str, Entry[P]] = {}

    def register(self, name: str, config: type[PartConfig] | None = None) -> Callable[[Q], Q]:
        """Return a decorator that registers a class or function.

        Raises ValueError if the name is taken, or would be read as a number or the like on a command line.
        """

        def decorate(part: Any) -> Any:
            if not re.fullmatch(r"[A-Za-z_][\w-]*", name) or name.lower() in _VALUES:
                raise ValueError(
                    f"{self.kind} {name} cannot be a name: letters, digits, _ and -, a letter first, and no "
                    "value such as nan"
                )
            if name in self._entries:
                raise ValueError(f"{self.kind} {name} is registered already: {self._entries[name].part}")
            self._entries[name] = Entry(part, config)
            return part

        return decorate

    def __getitem__(self, name: str) -> Entry[P]:
        """Return the part called `name`. Raises ConfigError, with the nearest name, if there is none."""
        self._import_package()
        if name not in self._entries and name in self.third_party():
            self._load(self.third_party()[name])
        if name not in self._entries:
            raise ConfigError(f"{self.kind}={not_one_of(name, self.names())}")
        return self._entries[name]

    def names(self) -> list[str]:
        """Return all names, those of third parties included."""
        self._import_package()
        return sorted({*self._entries, *self.third_party()})

    def registered(self) -> list[str]:
        """Return the names that are registered so far in this process, without importing anything."""
        return list(self._entries)

    @functools.cache  # noqa: B019 - registries live as long as the program
    def third_party(self) -> dict[str, EntryPoint]:
        """Return the installed entry points by name, whether loaded or not."""
        return {entry.name: entry for entry in entry_points(group=f"qdreamer.{self.kind}")}

    def defaults(self, name: str) -> dict[str, Any]:
        """Return a part's section before anything is set; ??? (Hydra's sign) where the user must say."""
        values: dict[str, Any] = {}
        for key, field in getattr(self[name].config, "__pydantic_fields__", {}).items():
            default: Any = "???" if field.is_required() else field.get_default(call_default_factory=True)
            values[key] = asdict(default) if hasattr(default, "__dataclass_fields__") else default
        return {**values, "name": name}

    @functools.cache  # noqa: B019 - registries live as long as the program
    def _import_package(self) -> None:
        package = importlib.import_module(self._package)
        for module in pkgutil.iter_modules(package.__path__, f"{self._package}."):
            importlib.import_module(module.name)

    def _load(self, entry: EntryPoint) -> None:
        try:
            entry.load()
        except Exception as error:  # whatever a stranger's module raises
            raise ConfigError(
                f"{self.kind}={entry.name} ({entry.value}) cannot be imported: {error}"
            ) from error
        if entry.name not in self._entries:
            raise ConfigError(f"{self.kind}={entry.name}: {entry.value} registers no such name")

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        if source is str:
            return handler.generate_schema(Annotated[str, one_of(self.names)])
        return with_info_before_validator_function(self._section, handler(source))

    def _section(self, value: Any, info: ValidationInfo) -> Any:
        """Return the config of the part that a mapping names; the field's type refuses all else."""
        if not isinstance(value, Mapping):
            return value
        name = value.get("name")
        if name not in self.names():
            problem = "is missing" if name is None else not_one_of(name, self.names())
            kind = ConfigError if name is None else UnknownWordError
            raise kind(f"{info.field_name}.name{' ' if name is None else '='}{problem}")
        config = self[name].config
        assert config is not None, f"{self.kind} {name} has no config"
        return build(config, value, f"{info.field_name}.")

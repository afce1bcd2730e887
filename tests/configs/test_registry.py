"""Registries: one name, one part; every choice of a group is a registered part, whose config is strict."""

import dataclasses
import typing
from typing import Annotated, Any

import pytest
from pydantic import Field

from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.cli.overrides import CONFIGS, registries
from qdreamer.agents.runs.config import Config
from qdreamer.configs.registry import PartConfig, Registry
from qdreamer.configs.schema import ConfigError, Float, Int, build, settings


@settings
class WaveConfig(PartConfig):
    height: Int = Field(ge=1)
    length: Float = 2.5


@pytest.fixture
def waves() -> Registry[type]:
    """Of a package without modules of its own."""
    registry: Registry[type] = Registry("waves", "qdreamer.agents.cli")
    registry.register("tall", WaveConfig)(int)
    registry.register("flat", PartConfig)(float)
    return registry


def test_parts_are_found_by_name(waves: Registry[type]) -> None:
    assert waves.names() == ["flat", "tall"]
    assert (waves["tall"].part, waves["tall"].config) == (int, WaveConfig)
    with pytest.raises(ConfigError, match=r"waves=tal is not one of flat, tall \(did you mean tall\?\)"):
        waves["tal"]
    with pytest.raises(ValueError, match="waves tall is registered already"):
        waves.register("tall")(str)


def test_defaults_leave_open_what_has_none(waves: Registry[type]) -> None:
    assert waves.defaults("tall") == {"name": "tall", "height": "???", "length": 2.5}


def test_a_section_is_typed_by_its_name(waves: Registry[type]) -> None:
    @settings
    class Beach:
        wave: Annotated[PartConfig, waves]
        word: Annotated[str, waves]

    built = build(Beach, {"wave": {"name": "tall", "height": 3, "length": 1}, "word": "flat"})
    assert built.wave == WaveConfig(name="tall", height=3, length=1.0)
    for wave, word, message in (
        ({"name": "tal"}, "flat", "^wave.name=tal is not one of flat, tall"),
        ({}, "flat", "^wave.name is missing"),
        (3, "flat", "^wave=3 replaces a whole section"),
        ({"name": "tall", "height": 0, "length": 1}, "flat", "^wave.height=0 must be at least 1"),
        ({"name": "flat", "height": 1}, "flat", "^unknown key wave.height"),
        ({"name": "flat"}, "falt", r"^word=falt is not one of flat, tall \(did you mean flat\?\)"),
    ):
        with pytest.raises(ConfigError, match=message):
            build(Beach, {"wave": wave, "word": word})


@pytest.mark.parametrize("name", ["nan", "true", "3", "1e5", "null"])
def test_values_are_no_names(name: str, waves: Registry[type]) -> None:
    with pytest.raises(ValueError, match=f"^waves {name} cannot be a name"):
        waves.register(name)(str)


@pytest.mark.parametrize("group", registries())
def test_files_and_registered_names_are_the_same(group: str) -> None:
    files = {path.stem for path in (CONFIGS / group).glob("*.yaml")}
    registry = registries()[group]
    assert files == set(registry.names()) - set(registry.third_party())
    assert registry.plain in files


def _bare(hint: Any) -> bool:
    """True for a type whose numbers take what only resembles one."""
    if hint in (int, float, bool):
        return True
    if typing.get_origin(hint) is Annotated:
        strict = any(getattr(mark, "strict", None) for field in hint.__metadata__ for mark in _marks(field))
        return not strict and _bare(typing.get_args(hint)[0])
    return any(map(_bare, typing.get_args(hint)))


def _marks(field: Any) -> list[Any]:
    return [field, *getattr(field, "metadata", ())]


def test_no_config_takes_what_only_resembles_a_number() -> None:
    classes: list[Any] = [
        Config,
        *(registry[n].config for registry in registries().values() for n in registry.names()),
    ]
    seen = set()
    while classes:
        cls = classes.pop()
        if cls in seen or not dataclasses.is_dataclass(cls):
            continue
        seen.add(cls)
        for name, hint in typing.get_type_hints(cls, include_extras=True).items():
            if name in {field.name for field in dataclasses.fields(cls)}:
                assert not _bare(hint), f"{cls.__name__}.{name}"
                classes.append(typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint)
    assert len(seen) > 20


@pytest.mark.parametrize(
    "words",
    [
        f"{group}={name}"
        for group, registry in registries().items()
        for name in registry.names()
        if group != "launcher"
    ],
)
def test_every_part_has_settings_that_it_takes(words: str) -> None:
    """Each with the sequence model that reads it, so that its own check runs."""
    group, _, name = words.partition("=")
    more = ["agent=classical", "sequence=transformer"] if group == "attention" else ["agent=classical"]
    config = load_config([*more, words] if group != "sequence" else ["agent=classical", words])
    assert getattr(config, group).name == name

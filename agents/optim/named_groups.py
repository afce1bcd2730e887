"""Groups of parameters that are named in the settings, each with a learning rate and turns of its own."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from torch import nn

from qdreamer.agents.dreamer import Dreamer
from qdreamer.agents.optim.parameter_groups import ParameterGroup
from qdreamer.configs.schema import ConfigError, Float, Int, closest, did_you_mean, settings

REST = "rest"
"""The group of all parameters that no name covers."""


@settings
class GroupConfig:
    """What a group has of its own. Groups that alternate have the same `every` and different phases."""

    lr: Float | None = Field(default=None, gt=0.0, le=10.0)  # null: the optimizer's
    every: Int = Field(default=1, ge=1)  # the group moves at one of so many updates
    phase: Int = Field(default=0, ge=0)  # at which of them; 0 is the first

    def __post_init__(self) -> None:
        if self.phase >= self.every:
            raise ValueError(
                f"optimizer.groups: phase={self.phase} must be less than every={self.every}: "
                "0 is the first of so many updates"
            )


def _by_name(values: Any, path: str = "") -> Any:
    """{actor: {body: {every: 2}, lr: 1}}, as dots on a command line give it → {actor.body: …, actor: …}."""
    if not isinstance(values, Mapping):
        return values
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name, deeper = f"{path}{key}", isinstance(value, Mapping)
        inner = {k: v for k, v in value.items() if isinstance(v, Mapping)} if deeper else {}
        own = {k: v for k, v in value.items() if k not in inner} if deeper else value
        if own or not inner:
            flat[name] = own
        flat |= _by_name(inner, f"{name}.")
    return flat


Groups = Annotated[dict[str, GroupConfig], BeforeValidator(_by_name)]
"""Name of a part of the agent, or of a module inside of it → the group's settings."""


def split(agent: Dreamer, names: Mapping[str, Any]) -> list[ParameterGroup]:
    """Return the named groups, each without what a longer name covers, and the rest.

    Raises ConfigError for a name that the agent does not have, or under which nothing learns.
    """
    found: dict[str, list[nn.Parameter]] = {name: [] for name in names}
    owner: dict[int, str] = {}
    for name in sorted(names, key=len):  # longer names come later, and take over
        owner |= {id(p): name for p in _module(agent, name).parameters()}
    rest: list[nn.Parameter] = []
    for p in agent.trainable():
        found.get(owner.get(id(p), ""), rest).append(p)
    empty = [name for name, parameters in found.items() if not parameters]
    if empty:
        raise ConfigError(f"optimizer.groups.{empty[0]} has no parameters that learn: leave it out")
    groups = [ParameterGroup(name, parameters) for name, parameters in found.items()]
    return [*groups, ParameterGroup(REST, rest)] if rest else groups


def _module(agent: Dreamer, name: str) -> nn.Module:
    first, *others = name.split(".")
    parts = agent.parts()
    if first not in parts:
        raise _unknown(name, first, parts)
    module = parts[first]
    for word in others:
        children = dict(module.named_children())
        if word not in children:
            raise _unknown(name, word, children)
        module = children[word]
    return module


def _unknown(name: str, word: str, known: Mapping[str, Any]) -> ConfigError:
    hint = did_you_mean(closest(word, known))
    return ConfigError(
        f"optimizer.groups.{name} names no part of this agent{hint}; in place of {word}: {', '.join(known)}"
    )

"""Modules of an agent with something else in their place.

Weights that are made (`worldmodel.weights`), or circuits in heads (`worldmodel.quantum_heads`).
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch
from torch import nn

from qdreamer.agents.actor import Actor
from qdreamer.agents.dreamer import Dreamer
from qdreamer.configs.schema import ConfigError
from qdreamer.worldmodel.networks.heads import TwoHotHead
from qdreamer.worldmodel.networks.observations import Decoders
from qdreamer.worldmodel.quantum_heads.config import HeadsConfig
from qdreamer.worldmodel.rssm import RSSM
from qdreamer.worldmodel.weights.generated import effective
from qdreamer.worldmodel.weights.generator import WEIGHTS, WeightsConfig

T = TypeVar("T", bound=nn.Module)


@dataclass(frozen=True)
class Slot:
    """A place in the agent: whose attribute it is, and how its module is made for so many units."""

    owner: Callable[[Dreamer], nn.Module]
    attribute: str
    make: Callable[[Dreamer, int], nn.Module]
    units: Callable[[Dreamer], int]


def _actor(agent: Dreamer, units: int) -> nn.Module:
    config = replace(agent.config, units=units)
    return Actor(agent.action, agent.world_model.features, config, agent.actor.masked)


def _critic(agent: Dreamer, units: int) -> nn.Module:
    model = agent.world_model
    return TwoHotHead(model.features, units, agent.config.critic_layers, model.config.bins)


def _decoder(agent: Dreamer, units: int) -> nn.Module:
    model = agent.world_model
    return Decoders(agent.observation, replace(model.config, units=units), model.features)


def _rssm(agent: Dreamer, units: int) -> RSSM:
    """Return an RSSM of so many units around the agent's own sequence model."""
    model = agent.world_model
    return type(model.rssm)(replace(model.config, units=units), model.rssm.sequence, model.encoder.width)


def _posterior(agent: Dreamer, units: int) -> nn.Module:
    return _rssm(agent, units).get_submodule("posterior")


def _agent_units(agent: Dreamer) -> int:
    return agent.config.units


def _model_units(agent: Dreamer) -> int:
    return agent.world_model.config.units


SLOTS = {
    "actor": Slot(lambda agent: agent, "actor", _actor, _agent_units),
    "critic": Slot(lambda agent: agent.critic, "online", _critic, _agent_units),
    "decoder": Slot(lambda agent: agent.world_model, "decoder", _decoder, _model_units),
    "prior": Slot(
        lambda agent: agent.world_model.rssm, "prior", lambda a, u: _rssm(a, u).prior, _model_units
    ),
    "posterior": Slot(lambda agent: agent.world_model.rssm, "posterior", _posterior, _model_units),
}


def substitute(agent: Dreamer, weights: WeightsConfig, heads: HeadsConfig) -> None:
    """Put circuits into the chosen heads, and let the weights of the chosen modules be made.

    Raises ConfigError for sizes that cannot be.
    """
    model = agent.world_model
    all_heads = {
        "actor": agent.actor.body, "critic": agent.critic.online,
        "reward": model.reward, "continue": model.continues,
    }  # fmt: skip
    for chosen in heads.chosen:
        heads.insert(all_heads[chosen])
    if "actor" in heads.chosen:
        agent.average_actor = copy.deepcopy(agent.actor).requires_grad_(False)
    if "critic" in heads.chosen:
        agent.critic.slow = copy.deepcopy(agent.critic.online).requires_grad_(False)
    part = WEIGHTS[weights.name].part
    for name in weights.chosen:
        slot = SLOTS[name]
        make, units = partial(slot.make, agent), slot.units(agent)
        try:
            module = part.build(make, units, weights)
        except ValueError as error:
            raise ConfigError(f"weights={weights.name} cannot make the {name}: {error}") from error
        setattr(slot.owner(agent), slot.attribute, module)
        made = getattr(module, "generated", None)
        if made is not None:
            (agent if name in ("actor", "critic") else agent.world_model).made.append(made)
        if name == "actor":
            agent.average_actor = averaged(agent.actor, make, units)
        elif name == "critic":
            agent.critic.slow = averaged(agent.critic.online, make, units)


def averaged(module: T, make: Callable[[int], nn.Module], units: int) -> T:
    """Return what becomes the moving average of a module: of its weights, however these are made."""
    if getattr(module, "generated", None) is None:
        return copy.deepcopy(module).requires_grad_(False)
    average = make(units).requires_grad_(False)
    with torch.no_grad():
        torch._foreach_copy_(list(average.parameters()), effective(module))
    assert isinstance(average, type(module))
    return average

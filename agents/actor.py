"""Actors: features to a distribution over actions (DreamerV3, eq. 4)."""

import math
from abc import abstractmethod
from typing import Protocol

import torch
from torch import Tensor, nn

from qdreamer import native
from qdreamer.agents.config import AgentConfig
from qdreamer.envs.spaces import ActionSpec
from qdreamer.worldmodel.networks.categorical import one_hot, sample_index, unimix_probs
from qdreamer.worldmodel.networks.layers import MLPHead


class Policy(Protocol):
    """A distribution over actions; actions are vectors (…, A), one-hot if discrete."""

    kind: str  # "discrete" or "continuous"

    def sample(self, noise: Tensor) -> Tensor: ...
    def mode(self) -> Tensor: ...
    def log_prob(self, action: Tensor) -> Tensor: ...
    def entropy(self) -> Tensor: ...


class CategoricalPolicy:
    """One of A actions, mixed with 1 % uniform so that none ever dies out."""

    kind = "discrete"

    def __init__(self, logits: Tensor, unimix: float) -> None:
        self.probs = unimix_probs(logits, unimix)  # (…, A)

    def sample(self, noise: Tensor) -> Tensor:
        return one_hot(sample_index(self.probs.detach(), noise), self.probs)

    def mode(self) -> Tensor:
        return one_hot(self.probs.argmax(-1), self.probs)

    def log_prob(self, action: Tensor) -> Tensor:
        return torch.log((self.probs * action).sum(-1))

    def entropy(self) -> Tensor:
        return -torch.xlogy(self.probs, self.probs).sum(-1)


class BoundedNormal:
    """Normal with mean tanh(m) and deviation in (low, high); the environment clips the actions."""

    kind = "continuous"

    def __init__(self, mean: Tensor, raw_std: Tensor, low: float, high: float) -> None:
        self.mean = torch.tanh(mean)  # (…, A)
        self.std = low + (high - low) * torch.sigmoid(raw_std + 2.0)  # (…, A)

    def sample(self, noise: Tensor) -> Tensor:
        return (self.mean + self.std * noise).detach()

    def mode(self) -> Tensor:
        return self.mean

    def log_prob(self, action: Tensor) -> Tensor:
        z = (action - self.mean) / self.std
        return (-0.5 * z.square() - torch.log(self.std) - 0.5 * math.log(2.0 * math.pi)).sum(-1)

    def entropy(self) -> Tensor:
        return (torch.log(self.std) + 0.5 * math.log(2.0 * math.pi * math.e)).sum(-1)


class Actor(nn.Module):
    """Features (…, F) → a policy over actions (…, A), by way of an output (…, `outputs`)."""

    unimix: float | None = None
    std = 0.0, 0.0

    def __init__(self, features: int, actions: int, outputs: int, config: AgentConfig) -> None:
        super().__init__()
        self.actions = actions  # A
        self.body = MLPHead(features, config.units, config.actor_layers, outputs, scale=0.01)

    def forward(self, features: Tensor) -> Policy:
        return self.policy(self.body(features))

    @abstractmethod
    def policy(self, output: Tensor) -> Policy:
        """Return what the body's output means."""

    @abstractmethod
    def noise(self, *shape: int, generator: torch.Generator | None = None) -> Tensor:
        """Return random variables (*shape, ·) for drawing actions."""

    def native_weights(self) -> native.ActorWeights:
        """Return what C needs to act."""
        return native.ActorWeights(self.body.native_weights(), self.actions, self.unimix, self.std)


class CategoricalActor(Actor):
    """One-hot actions, with a part `unimix` of the uniform distribution."""

    unimix: float

    def __init__(self, features: int, actions: int, config: AgentConfig) -> None:
        super().__init__(features, actions, actions, config)
        self.unimix = config.unimix

    def policy(self, output: Tensor) -> CategoricalPolicy:
        return CategoricalPolicy(output, self.unimix)

    def noise(self, *shape: int, generator: torch.Generator | None = None) -> Tensor:
        return next(self.parameters()).new_empty(shape).uniform_(generator=generator)


class BoundedNormalActor(Actor):
    """Actions of A numbers with deviations in a range, which the environment clips."""

    def __init__(self, features: int, actions: int, config: AgentConfig) -> None:
        super().__init__(features, actions, 2 * actions, config)
        self.std = config.min_std, config.max_std

    def policy(self, output: Tensor) -> BoundedNormal:
        mean, raw_std = output.chunk(2, -1)
        return BoundedNormal(mean, raw_std, *self.std)

    def noise(self, *shape: int, generator: torch.Generator | None = None) -> Tensor:
        return next(self.parameters()).new_empty(*shape, self.actions).normal_(generator=generator)


def make_actor(spec: ActionSpec, features: int, config: AgentConfig) -> Actor:
    """Return the actor that fits the action space."""
    return (CategoricalActor if spec.discrete else BoundedNormalActor)(features, spec.size, config)

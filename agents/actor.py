"""Actors: features to a distribution over actions (Hafner et al. 2023, Methods: actor)."""

import math
from typing import Protocol

import torch
from torch import Tensor, nn

from qdreamer.envs.spaces import ActionSpec
from qdreamer.native import Activations
from qdreamer.worldmodel.networks.categorical import one_hot, sample_index, unimix_probs
from qdreamer.worldmodel.networks.layers import MLP, Linear


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


class CategoricalActor(nn.Module):
    """Features (…, F) → CategoricalPolicy over A actions."""

    def __init__(self, features: int, actions: int, units: int, layers: int, unimix: float) -> None:
        super().__init__()
        self.count, self.unimix = actions, unimix
        self.body = nn.Sequential(MLP(features, units, layers), Linear(units, actions, scale=0.01))

    def noise(self, *shape: int, generator: torch.Generator | None = None) -> Tensor:
        """U[0, 1) variables (*shape) for drawing actions."""
        return next(self.parameters()).new_empty(shape).uniform_(generator=generator)

    def forward(self, features: Tensor) -> CategoricalPolicy:
        return self.policy(self.body(features))

    def from_activations(self, features: Tensor, kept: Activations) -> CategoricalPolicy:
        """`forward` of a pass that has been made already, by what the body's layers made."""
        layers, out = self.body
        assert isinstance(layers, MLP)
        return self.policy(out(layers.from_activations(features, kept)))

    def policy(self, output: Tensor) -> CategoricalPolicy:
        """What the body's output (…, A) means."""
        return CategoricalPolicy(output, self.unimix)


class BoundedNormalActor(nn.Module):
    """Features (…, F) → BoundedNormal over A numbers."""

    def __init__(
        self, features: int, actions: int, units: int, layers: int, min_std: float, max_std: float
    ) -> None:
        super().__init__()
        self.count, self.min_std, self.max_std = actions, min_std, max_std
        self.body = nn.Sequential(MLP(features, units, layers), Linear(units, 2 * actions, scale=0.01))

    def noise(self, *shape: int, generator: torch.Generator | None = None) -> Tensor:
        """Normal variables (*shape, A) for drawing actions."""
        return next(self.parameters()).new_empty(*shape, self.count).normal_(generator=generator)

    def forward(self, features: Tensor) -> BoundedNormal:
        return self.policy(self.body(features))

    def from_activations(self, features: Tensor, kept: Activations) -> BoundedNormal:
        """`forward` of a pass that has been made already, by what the body's layers made."""
        layers, out = self.body
        assert isinstance(layers, MLP)
        return self.policy(out(layers.from_activations(features, kept)))

    def policy(self, output: Tensor) -> BoundedNormal:
        """What the body's output (…, 2·A) means."""
        mean, raw_std = output.chunk(2, -1)
        return BoundedNormal(mean, raw_std, self.min_std, self.max_std)


def make_actor(
    spec: ActionSpec, features: int, units: int, layers: int, unimix: float, min_std: float, max_std: float
) -> CategoricalActor | BoundedNormalActor:
    """The actor that fits the action space."""
    if spec.discrete:
        return CategoricalActor(features, spec.size, units, layers, unimix)
    return BoundedNormalActor(features, spec.size, units, layers, min_std, max_std)

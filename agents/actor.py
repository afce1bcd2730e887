"""Actors: features to a distribution over actions (DreamerV3, eq. 4)."""

import math

import torch
from torch import Tensor, nn

from qdreamer import native
from qdreamer.agents.config import AgentConfig
from qdreamer.envs.spaces import ActionSpec
from qdreamer.worldmodel.networks.categorical import one_hot, sample_index, unimix_probs
from qdreamer.worldmodel.networks.layers import MLPHead


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


Policy = CategoricalPolicy | BoundedNormal
"""A distribution over actions; actions are vectors (…, A), one-hot if discrete."""


class Actor(nn.Module):
    """Features (…, F) → a policy over actions (…, A) as in `spec`, by way of an output (…, ·)."""

    def __init__(self, spec: ActionSpec, features: int, config: AgentConfig) -> None:
        super().__init__()
        self.actions, self.discrete, self.config = spec.size, spec.discrete, config
        outputs = spec.size if spec.discrete else 2 * spec.size
        self.body = MLPHead(features, config.units, config.actor_layers, outputs, scale=0.01)

    def forward(self, features: Tensor) -> Policy:
        return self.policy(self.body(features))

    def policy(self, output: Tensor) -> Policy:
        """Return what the body's output means."""
        if self.discrete:
            return CategoricalPolicy(output, self.config.unimix)
        mean, raw_std = output.chunk(2, -1)
        return BoundedNormal(mean, raw_std, self.config.min_std, self.config.max_std)

    def noise(self, *shape: int, generator: torch.Generator | None = None) -> Tensor:
        """Return what actions are drawn by: uniform (*shape,) if discrete, else normal (*shape, A)."""
        like = next(self.parameters())
        if self.discrete:
            return like.new_empty(shape).uniform_(generator=generator)
        return like.new_empty(*shape, self.actions).normal_(generator=generator)

    def native_weights(self) -> native.ActorWeights:
        """Return what C needs to act."""
        unimix = self.config.unimix if self.discrete else None
        std = self.config.min_std, self.config.max_std
        return native.ActorWeights(self.body.native_weights(), self.actions, unimix, std)

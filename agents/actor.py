"""Actors: features to a distribution over actions (DreamerV3, eq. 4), a head for each leaf of the action."""

import math
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from qdreamer import native
from qdreamer.agents.config import AgentConfig
from qdreamer.envs.actions import ActionSpec, Classes, Numbers
from qdreamer.worldmodel.networks.categorical import one_hot, sample_index, unimix_probs
from qdreamer.worldmodel.networks.layers import MLPHead


class Policy(Protocol):
    """A distribution over action vectors (…, A), or over the part of them that one leaf takes."""

    def sample(self, noise: Tensor) -> Tensor:
        """Draw actions (…, A) by what `Actor.noise` gives (…, ·)."""

    def mode(self) -> Tensor:
        """Return the likeliest actions (…, A)."""

    def log_prob(self, action: Tensor) -> Tensor:
        """Return the log-density of actions (…, A) → (…)."""

    def entropy(self) -> dict[str, Tensor]:
        """Return the entropies (…) of discrete and of continuous leaves, by these words."""


class CategoricalPolicy:
    """One of K actions, or several such choices, mixed with 1 % uniform so that none ever dies out.

    Actions whose logits are −∞ are forbidden: they have no probability at all.
    """

    def __init__(self, logits: Tensor, unimix: float, count: int = 1, masked: bool = False) -> None:
        self._count, self._masked = count, masked
        if count > 1:
            logits = logits.unflatten(-1, (count, -1))
        self.probs = unimix_probs(logits, 0.0 if masked else unimix)  # (…, K) or (…, count, K)
        if masked:
            allowed = (logits > -torch.inf).to(logits.dtype)
            self.probs = self.probs.lerp(allowed / allowed.sum(-1, keepdim=True), unimix)

    def sample(self, noise: Tensor) -> Tensor:
        probs = self.probs.detach()
        index = sample_index(probs, noise if self._count > 1 else noise.squeeze(-1))
        if self._masked:  # rounding at the end of the running sum must not lead to a forbidden one
            drawn = probs.gather(-1, index.unsqueeze(-1)).squeeze(-1)
            index = torch.where(drawn > 0.0, index, probs.argmax(-1))
        return self._flat(one_hot(index, self.probs))

    def mode(self) -> Tensor:
        return self._flat(one_hot(self.probs.argmax(-1), self.probs))

    def log_prob(self, action: Tensor) -> Tensor:
        if self._count > 1:
            action = action.unflatten(-1, (self._count, -1))
        return self._sum(torch.log((self.probs * action).sum(-1)))

    def entropy(self) -> dict[str, Tensor]:
        if self._masked:  # xlogy's gradient is not finite at 0
            tiny = torch.finfo(self.probs.dtype).tiny
            return {"discrete": self._sum(-(self.probs * self.probs.clamp(min=tiny).log()).sum(-1))}
        return {"discrete": self._sum(-torch.xlogy(self.probs, self.probs).sum(-1))}

    def _flat(self, hot: Tensor) -> Tensor:
        return hot.flatten(-2) if self._count > 1 else hot

    def _sum(self, each: Tensor) -> Tensor:
        return each.sum(-1) if self._count > 1 else each


class BoundedNormal:
    """Normal with mean tanh(m) and deviation in (low, high); the environment clips the actions."""

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

    def entropy(self) -> dict[str, Tensor]:
        return {"continuous": (torch.log(self.std) + 0.5 * math.log(2.0 * math.pi * math.e)).sum(-1)}


class JointPolicy:
    """Independent policies of several leaves, as one over the whole action vector.

    `actions` and `noise` are the numbers that each leaf takes in action vectors and in their noise.
    """

    def __init__(self, parts: list[Policy], actions: list[int], noise: list[int]) -> None:
        self._parts, self._actions, self._noise = parts, actions, noise

    def sample(self, noise: Tensor) -> Tensor:
        draws = zip(self._parts, noise.split(self._noise, -1), strict=True)
        return torch.cat([part.sample(own) for part, own in draws], -1)

    def mode(self) -> Tensor:
        return torch.cat([part.mode() for part in self._parts], -1)

    def log_prob(self, action: Tensor) -> Tensor:
        chosen = zip(self._parts, action.split(self._actions, -1), strict=True)
        return torch.stack([part.log_prob(own) for part, own in chosen]).sum(0)

    def entropy(self) -> dict[str, Tensor]:
        total: dict[str, Tensor] = {}
        for part in self._parts:
            for kind, value in part.entropy().items():
                total[kind] = total[kind] + value if kind in total else value
        return total


class Actor(nn.Module):
    """Features (…, F) → a policy over actions (…, A) as in `spec`, by way of an output (…, ·).

    masked: whether actions may be forbidden, by masks (…, A) that are 0 there.
    """

    def __init__(self, spec: ActionSpec, features: int, config: AgentConfig, masked: bool = False) -> None:
        super().__init__()
        self.spec, self.masked = spec, masked
        self.heads = [_HEADS[type(leaf)](leaf, config, masked) for leaf in spec.leaves]
        outputs = sum(head.outputs for head in self.heads)
        self.body = MLPHead(features, config.units, config.actor_layers, outputs, scale=0.01)

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Policy:
        return self.policy(self.output(features, mask))

    def output(self, features: Tensor, mask: Tensor | None) -> Tensor:
        """Return the output (…, ·): logits are −∞ where a mask (…, A) is 0, but never all of a choice."""
        output = self.body(features)
        if mask is None:
            return output
        sizes = [leaf.size for leaf in self.spec.leaves]
        parts = [
            allowed.unflatten(-1, (leaf.count, -1)) > 0
            for leaf, allowed in zip(self.spec.leaves, mask.split(sizes, -1), strict=True)
        ]
        allowed = torch.cat([(part | ~part.any(-1, keepdim=True)).flatten(-2) for part in parts], -1)
        return output.masked_fill(~allowed, -torch.inf)

    def policy(self, output: Tensor) -> Policy:
        """Return what the body's output means."""
        if len(self.heads) == 1:
            return self.heads[0].policy(output)
        outputs = output.split([head.outputs for head in self.heads], -1)
        parts = [head.policy(own) for head, own in zip(self.heads, outputs, strict=True)]
        return JointPolicy(parts, [leaf.size for leaf in self.spec.leaves], [h.draws for h in self.heads])

    def noise(self, *shape: int, generator: torch.Generator | None = None) -> Tensor:
        """Return what actions are drawn by, (*shape, ·): a number for each choice and each number."""
        like = self.body.out.weight
        parts = [head.noise(like.new_empty(*shape, head.draws), generator) for head in self.heads]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    @property
    def normal_draws(self) -> list[int]:
        """Columns of `noise` that are normal: those of continuous leaves."""
        kinds = [
            leaf.kind
            for leaf, head in zip(self.spec.leaves, self.heads, strict=True)
            for _ in range(head.draws)
        ]
        return [column for column, kind in enumerate(kinds) if kind == "continuous"]

    def native_weights(self) -> native.ActorWeights | None:
        """Return what C needs to act; it knows one leaf, of one choice or of numbers, without a mask."""
        (leaf, *others), (head, *_) = self.spec.leaves, self.heads
        if others or self.masked or leaf.count > 1:
            return None
        return native.ActorWeights(self.body.native_weights(), head.unimix, head.std)


class _ClassesHead:
    """What the actor's output means for a leaf of classes."""

    def __init__(self, leaf: Classes, config: AgentConfig, masked: bool) -> None:
        self._leaf, self.unimix, self._masked = leaf, config.unimix, masked
        self.std = 0.0, 0.0  # of no use here
        self.outputs, self.draws = leaf.size, leaf.count

    def policy(self, output: Tensor) -> Policy:
        return CategoricalPolicy(output, self.unimix, self._leaf.count, self._masked)

    def noise(self, empty: Tensor, generator: torch.Generator | None) -> Tensor:
        return empty.uniform_(generator=generator)


class _NumbersHead:
    """What the actor's output means for a leaf of numbers."""

    def __init__(self, leaf: Numbers, config: AgentConfig, masked: bool) -> None:
        self.unimix, self.std = None, (config.min_std, config.max_std)
        self.outputs, self.draws = 2 * leaf.size, leaf.size

    def policy(self, output: Tensor) -> Policy:
        mean, raw_std = output.chunk(2, -1)
        return BoundedNormal(mean, raw_std, *self.std)

    def noise(self, empty: Tensor, generator: torch.Generator | None) -> Tensor:
        return empty.normal_(generator=generator)


_HEADS: dict[type, Any] = {Classes: _ClassesHead, Numbers: _NumbersHead}

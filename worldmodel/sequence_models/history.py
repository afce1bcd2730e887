"""What layers of attention have seen of an episode, and where imagined futures go on from it."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from qdreamer.worldmodel.sequence_models.context import CausalAttention, Future, Visibility

GROUP = 8
"""So many futures share a copy of their row's past. They are asked together, each about the keys of all:
more would cost more in keys that are not theirs, fewer in copies and small products."""


class KVCache(NamedTuple):
    """The state between steps: what happened before."""

    layers: tuple[Any, ...]
    segments: Tensor  # (B, c), 0 = of the running episode, −1 = not
    position: Tensor  # (), of the next step

    @classmethod
    def empty(cls, layers: Iterable[CausalAttention], batch: int, like: Tensor) -> "KVCache":
        pasts = tuple(attention.empty(batch, like) for attention in layers)
        nobody = torch.zeros(batch, 0, dtype=torch.long, device=like.device)
        return cls(pasts, nobody, torch.zeros((), dtype=torch.long, device=like.device))

    def followed_by(self, is_first: Tensor, window: int) -> Visibility:
        """Return who sees whom among the T steps (B, T) that come next."""
        own = (is_first > 0.5).long().cumsum(1)  # (B, T)
        return Visibility(torch.cat([self.segments, own], 1), own.shape[1], window)

    def begin(self, layers: Iterable[CausalAttention], window: int) -> "RolloutState":
        """Return the state of one future for every row."""
        memories = tuple(attention.resume(past) for attention, past in zip(layers, self.layers, strict=True))
        rows, columns = self.segments.shape
        distance = torch.arange(columns, 0, -1, device=self.segments.device) - 1  # (C,)
        distance = distance.where(self.segments == 0, window)[:, None, None]  # (R, 1, 1, C)
        return RolloutState(memories, distance, window, self.position.expand(rows, 1), 0)


class ObservedStates(NamedTuple):
    """What T steps leave behind: enough to go on from any of them."""

    layers: tuple[Any, ...]  # trails
    visibility: Visibility
    position: Tensor  # (), of the first of the T steps

    @torch.no_grad()
    def last(self, layers: Iterable[CausalAttention]) -> KVCache:
        """Return the state after the last step."""
        segments, steps, layers = self.visibility.segments, self.visibility.steps, list(layers)
        pasts = tuple(
            attention.truncate(trail, self.visibility)
            for attention, trail in zip(layers, self.layers, strict=True)
        )
        near = segments[:, -max(attention.reach for attention in layers) :]
        # As the next step sees them: 0 for its own episode, −1 for others.
        return KVCache(pasts, (near == segments[:, -1:]).long() - 1, self.position + steps)

    def select(self, b: Tensor | None, t: Tensor) -> "Starts":
        """Return where to imagine from, see `interface.SequenceModel.select`."""
        if b is not None:
            return Starts(self, b, t.unsqueeze(1))
        group = math.gcd(t.shape[1], GROUP)
        b = torch.arange(len(t), device=t.device).repeat_interleave(t.shape[1] // group)
        return Starts(self, b, t.reshape(-1, group))


class Starts(NamedTuple):
    """The state of N = R·G futures before their first step, after steps t of rows b: G share a past."""

    states: ObservedStates
    b: Tensor  # (R,)
    t: Tensor  # (R, G)

    def begin(self, layers: Iterable[CausalAttention], window: int) -> "RolloutState":
        """Return the state of futures with memories that their steps can be written to."""
        (trails, visibility, position), b, t = self
        layers = list(layers)
        memories = tuple(
            attention.select(trail, visibility, b, t) for attention, trail in zip(layers, trails, strict=True)
        )
        reach = max(attention.reach for attention in layers) + visibility.steps
        segments = visibility.segments[b, -reach:]  # (R, C)
        columns = segments.shape[1]
        at = t + (columns - visibility.steps)  # (R, G)
        distance = at.unsqueeze(-1) - torch.arange(columns, device=t.device)  # (R, G, C)
        same = segments.gather(1, at).unsqueeze(-1) == segments.unsqueeze(1)
        distance = distance.masked_fill(~same | (distance < 0), window)
        return RolloutState(memories, distance.unsqueeze(1), window, (position + t + 1).view(-1, 1), 0)


class RolloutState(NamedTuple):
    """The state of these futures after it; stepping from it uses it up."""

    layers: tuple[Any, ...]
    distance: Tensor  # (R, 1, G, C): how far each step of the past lies behind the start; ≥ window if unseen
    window: int
    position: Tensor  # (N, 1), of the next step
    step: int

    def future(self, like: Tensor) -> Future:
        """Return who sees whom at the next step, in numbers like those of `like`."""
        rows, _, group, context = self.distance.shape
        now = self.step + 1
        bias = like.new_full((rows, 1, group, context + group * now), -torch.inf)
        bias[..., :context].masked_fill_(self.distance < self.window - now, 0.0)
        own = bias[..., context:].view(rows, 1, group, now, group).diagonal(dim1=2, dim2=4)  # (R, 1, now, G)
        own[:, :, max(0, now - self.window) :] = 0.0
        return Future(self.step, context, bias)

    def after(self, memories: Iterable[Any]) -> "RolloutState":
        """Return the state after the next step, which left these memories."""
        return self._replace(layers=tuple(memories), position=self.position + 1, step=self.step + 1)

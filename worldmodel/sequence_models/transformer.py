"""A pre-norm transformer as sequence model (Vaswani et al. 2017; Xiong et al. 2020), with any attention.

    x_t = W_z z_{t−1} + action_embedding(a_{t−1})
    x  ← x + W_o·attention(norm(x)),   x ← x + W_2·SiLU(norm(W_1 x))      L times;      h_t = norm(x_t)

A step sees itself and the steps before it in the same episode, at most `window` back (`born`: all,
through its decay). Rotary phases carry relative distance only. Observing is parallel over time; it
needs the latents of all steps, so the posterior must be decoupled.

Replayed sequences begin without context: states are large, and old ones would be stale.
"""

import math
from typing import Any, NamedTuple, Self, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from qdreamer import native
from qdreamer.configs.schema import Int, settings
from qdreamer.quantum.config import QuantumConfig
from qdreamer.worldmodel.attention.config import AttentionConfig
from qdreamer.worldmodel.attention.rotary import phases
from qdreamer.worldmodel.networks.layers import MLP, Linear, RMSNorm
from qdreamer.worldmodel.sequence_models.block import Block
from qdreamer.worldmodel.sequence_models.context import CausalAttention, Future, Visibility
from qdreamer.worldmodel.sequence_models.interface import SEQUENCE_MODELS, SequenceConfig
from qdreamer.worldmodel.sequence_models.layer_view import LayerView, view_layer
from qdreamer.worldmodel.sequence_models.mixed_attention import make_attention


class KVCache(NamedTuple):
    """The state between steps: what happened before."""

    layers: tuple[Any, ...]
    segments: Tensor  # (B, c), 0 = of the running episode, −1 = not
    position: Tensor  # (), of the next step


class ObservedStates(NamedTuple):
    """What `observe` leaves behind: enough to go on from any of its steps."""

    layers: tuple[Any, ...]
    visibility: Visibility
    position: Tensor  # (), of the first of the T steps


class Starts(NamedTuple):
    """The state of N = R·G futures before their first step, after steps t of rows b: G share a past."""

    states: ObservedStates
    b: Tensor  # (R,)
    t: Tensor  # (R, G)


class RolloutState(NamedTuple):
    """The state of these futures after it; stepping from it uses it up."""

    layers: tuple[Any, ...]
    distance: Tensor  # (R, 1, G, C): how far each step of the past lies behind the start; ≥ window if unseen
    position: Tensor  # (N, 1), of the next step
    step: int


@settings
class TransformerConfig(SequenceConfig):
    """Widths; what attends is in the `attention` section."""

    heads: Int = Field(ge=1)  # h
    head: Int = Field(ge=2)  # d, the width of a head
    hidden: Int = Field(ge=1)  # width of the MLPs
    layers: Int = Field(ge=1)
    window: Int = Field(ge=2)  # steps that a step sees, itself included

    def __post_init__(self) -> None:
        if self.head % 2:
            raise ValueError(f"sequence.head={self.head} must be even: rotary phases turn pairs of features")

    def check(self, root: Any) -> None:
        if root.world_model.posterior != "decoupled":
            raise ValueError(
                f"world_model.posterior={root.world_model.posterior} needs sequence=gru: "
                "sequence=transformer needs the latents of all steps beforehand, so decoupled"
            )
        root.attention.check(root)


@SEQUENCE_MODELS.register("transformer", TransformerConfig)
class Transformer(nn.Module):
    """See the module's docstring; shapes as in `worldmodel.sequence_models.interface.SequenceModel`.

    Args:
        attentions: one for each layer.
        heads, head: h and d. hidden: width of the MLPs. window: steps, itself included.
    """

    def __init__(
        self,
        attentions: list[CausalAttention],
        stoch: int,
        action: int,
        deter: int,
        heads: int,
        head: int,
        hidden: int,
        window: int,
        decay: bool,
    ) -> None:
        super().__init__()
        self.deter, self.head, self.window = deter, head, window
        self.stoch_in = Linear(stoch, deter)
        self.action_in = MLP(action, hidden, 1, bias_std=1.0)
        self.mix_action = Linear(hidden, deter)
        layers = len(attentions)
        self.blocks = nn.ModuleList(
            Block(attention, deter, heads, head, hidden, layers, decay) for attention in attentions
        )
        self.norm = RMSNorm(deter)

    @classmethod
    def make(
        cls,
        config: TransformerConfig,
        attention: AttentionConfig,
        stoch: int,
        action: int,
        quantum: QuantumConfig | None,
    ) -> Self:
        heads, head = config.heads, config.head
        layers = [
            make_attention(attention, heads, head, config.window, quantum) for _ in range(config.layers)
        ]
        return cls(
            layers, stoch, action, config.deter, heads, head, config.hidden, config.window, attention.damped
        )

    def layers(self) -> list[Block]:
        return cast("list[Block]", self.blocks)

    def initial(self, batch: int) -> KVCache:
        like = self.norm.scale
        layers = tuple(block.attention.empty(batch, like) for block in self.layers())
        nobody = torch.zeros(batch, 0, dtype=torch.long, device=like.device)
        return KVCache(layers, nobody, torch.zeros((), dtype=torch.long, device=like.device))

    def action_embedding(self, action: Tensor, is_first: Tensor | None) -> Tensor:
        if is_first is not None:
            action = action * (1.0 - is_first).unsqueeze(-1)
        action_embedding: Tensor = self.mix_action(
            self.action_in(action / action.detach().abs().clamp(min=1.0))
        )
        return action_embedding

    def observe(
        self, stoch: Tensor, action: Tensor, is_first: Tensor, state: KVCache
    ) -> tuple[Tensor, ObservedStates]:
        return self._observe(stoch, self.action_embedding(action, is_first), is_first, state)

    def _observe(
        self, stoch: Tensor, action_embedding: Tensor, is_first: Tensor, state: KVCache
    ) -> tuple[Tensor, ObservedStates]:
        x = self.stoch_in(stoch * (1.0 - is_first).unsqueeze(-1)) + action_embedding  # (B, T, D)
        visibility = self.visibility(is_first, state.segments)
        positions = state.position + torch.arange(x.shape[1], device=x.device)
        turn = phases(positions, self.head, x.dtype)
        trails: list[Any] = []
        for block, past in zip(self.layers(), state.layers, strict=True):
            x, trail = block(x, past, visibility, turn)
            trails.append(trail)
        return self.norm(x), ObservedStates(tuple(trails), visibility, state.position)

    @torch.no_grad()
    def inspect(self, stoch: Tensor, action: Tensor, is_first: Tensor) -> list[LayerView]:
        state = self.initial(len(stoch))
        x = self.stoch_in(stoch * (1.0 - is_first).unsqueeze(-1)) + self.action_embedding(action, is_first)
        visibility = self.visibility(is_first, state.segments)
        turn = phases(torch.arange(x.shape[1], device=x.device), self.head, x.dtype)
        views = []
        for block, past in zip(self.layers(), state.layers, strict=True):
            heads, attention = block.project(x, turn), block.attention
            views.append(view_layer(attention.kind, heads, visibility, block.qkv.weight.grad))
            x = block.residual(x, attention.attend(heads, attention.append(heads, past), visibility))
        return views

    @torch.no_grad()
    def last(self, states: ObservedStates) -> KVCache:
        trails, visibility, position = states
        layers = tuple(
            block.attention.truncate(trail, visibility, self.window - 1)
            for block, trail in zip(self.layers(), trails, strict=True)
        )
        segments = visibility.segments[:, max(0, visibility.segments.shape[1] - self.window + 1) :]
        # As the next step sees them: 0 for its own episode, −1 for others.
        return KVCache(
            layers, (segments == visibility.segments[:, -1:]).long() - 1, position + visibility.steps
        )

    def visibility(self, is_first: Tensor, before: Tensor) -> Visibility:
        own = (is_first > 0.5).long().cumsum(1)  # (B, T)
        return Visibility(torch.cat([before, own], 1), own.shape[1], self.window)

    def step(
        self,
        stoch: Tensor,
        action_embedding: Tensor,
        is_first: Tensor | None,
        state: KVCache | Starts | RolloutState,
    ) -> tuple[Tensor, KVCache | RolloutState]:
        new: KVCache | RolloutState
        if isinstance(state, KVCache):
            first = stoch.new_zeros(len(stoch), 1) if is_first is None else is_first.unsqueeze(1)
            hs, trail = self._observe(stoch.unsqueeze(1), action_embedding.unsqueeze(1), first, state)
            h, new = hs.squeeze(1), self.last(trail)
        else:
            if is_first is not None:
                raise ValueError("imagined futures hold no resets: pass is_first=None")
            h, new = self._imagine(
                stoch, action_embedding, self._begin(state) if isinstance(state, Starts) else state
            )
        return h, new

    def _imagine(
        self, stoch: Tensor, action_embedding: Tensor, state: RolloutState
    ) -> tuple[Tensor, RolloutState]:
        x = (self.stoch_in(stoch) + action_embedding).unsqueeze(1)  # (N, 1, D)
        future = Future(state.step, state.distance.shape[-1], self._bias(state))
        turn = phases(state.position, self.head, x.dtype)
        memories = []
        for block, memory in zip(self.layers(), state.layers, strict=True):
            attended, memory = block.attention.imagine(block.project(x, turn), memory, future)
            memories.append(memory)
            x = block.residual(x, attended.unsqueeze(2))
        new = RolloutState(tuple(memories), state.distance, state.position + 1, state.step + 1)
        return self.norm(x.squeeze(1)), new

    def _bias(self, state: RolloutState) -> Tensor:
        """0 for keys that a future sees, −∞ for others: those of the past, then those of the G futures."""
        rows, _, group, context = state.distance.shape
        now = state.step + 1
        bias = self.norm.scale.new_full((rows, 1, group, context + group * now), -torch.inf)
        bias[..., :context].masked_fill_(state.distance < self.window - now, 0.0)
        own = bias[..., context:].view(rows, 1, group, now, group).diagonal(dim1=2, dim2=4)  # (R, 1, now, G)
        own[:, :, max(0, now - self.window) :] = 0.0
        return bias

    def select(self, states: ObservedStates, b: Tensor | None, t: Tensor) -> Starts:
        if b is not None:
            return Starts(states, b, t.unsqueeze(1))
        group = math.gcd(t.shape[1], GROUP)
        b = torch.arange(len(t), device=t.device).repeat_interleave(t.shape[1] // group)
        return Starts(states, b, t.reshape(-1, group))

    def _begin(self, starts: Starts) -> RolloutState:
        """Return the state of futures with memories that their steps can be written to."""
        (trails, visibility, position), b, t = starts
        layers = tuple(
            block.attention.select(trail, visibility, b, t)
            for block, trail in zip(self.layers(), trails, strict=True)
        )
        columns = visibility.segments.shape[1]
        segments, at = visibility.segments[b], t + (columns - visibility.steps)  # (R, C), (R, G)
        distance = at.unsqueeze(-1) - torch.arange(columns, device=t.device)  # (R, G, C)
        same = segments.gather(1, at).unsqueeze(-1) == segments.unsqueeze(1)
        distance = distance.masked_fill(~same | (distance < 0), self.window)
        return RolloutState(layers, distance.unsqueeze(1), (position + t + 1).view(-1, 1), 0)

    def native_rollout(self, state: Any, horizon: int) -> native.TransformerRollout | None:
        if not isinstance(state, Starts):
            return None
        (trails, visibility, position), b, t = state
        layers = []
        for block, trail in zip(self.layers(), trails, strict=True):
            if (layer := block.native_past(trail, visibility)) is None:
                return None
            layers.append(layer)
        steps = visibility.steps
        positions = position + 1 + torch.arange(steps + horizon, device=t.device)
        action = native.ActionWeights(
            self.action_in.layers()[0], self.mix_action.weight, self.mix_action.bias
        )
        return native.TransformerRollout(
            action, self.stoch_in.weight, self.stoch_in.bias, self.norm.scale, layers, b, t,
            visibility.segments, steps, self.window, phases(positions, self.head, self.norm.scale.dtype),
        )  # fmt: skip

    def native_weights(self) -> None:
        """Return None: no kernel takes them all."""

    def schedule(self, update: int) -> None:
        for block in self.layers():
            block.attention.schedule(update)

    def pack(self, state: KVCache | ObservedStates) -> Tensor:
        """Nothing, (B, 0) or (B, T, 0): see the module's docstring."""
        if isinstance(state, ObservedStates):
            return self.norm.scale.new_zeros(len(state.visibility.segments), state.visibility.steps, 0)
        return self.norm.scale.new_zeros(len(state.segments), 0)

    def unpack(self, packed: Tensor) -> KVCache:
        return self.initial(len(packed))


GROUP = 8
"""So many futures share a copy of their row's past. They are asked together, each about the keys of all:
more would cost more in keys that are not theirs, fewer in copies and small products."""

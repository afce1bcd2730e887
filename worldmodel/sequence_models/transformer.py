"""A pre-norm transformer as sequence model (Vaswani et al. 2017; Xiong et al. 2020), with any attention.

    x_t = W_z z_{t−1} + action_embedding(a_{t−1})
    x  ← x + W_o·attention(norm(x)),   x ← x + W_2·SiLU(norm(W_1 x))      L times;      h_t = norm(x_t)

A step sees itself and the steps before it in the same episode, at most `window` back (`born`: all,
through its decay). Rotary phases carry relative distance only. Observing is parallel over time; it
needs the latents of all steps, so the posterior must be decoupled.

Replayed sequences begin without context: states are large, and old ones would be stale.
"""

from typing import Any, Self, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from qdreamer import native
from qdreamer.configs.schema import DEEPEST, LONGEST, WIDEST, Int, settings
from qdreamer.quantum.config import QuantumConfig
from qdreamer.worldmodel.attention.config import AttentionConfig
from qdreamer.worldmodel.attention.rotary import phases
from qdreamer.worldmodel.networks.layers import MLP, Linear, RMSNorm
from qdreamer.worldmodel.sequence_models.block import Block, native_futures
from qdreamer.worldmodel.sequence_models.context import CausalAttention
from qdreamer.worldmodel.sequence_models.history import KVCache, ObservedStates, RolloutState, Starts
from qdreamer.worldmodel.sequence_models.interface import SEQUENCE_MODELS, SequenceConfig
from qdreamer.worldmodel.sequence_models.layer_view import LayerView, view_layer
from qdreamer.worldmodel.sequence_models.memory import Memory, NoMemory
from qdreamer.worldmodel.sequence_models.mixed_attention import make_attention


@settings
class TransformerConfig(SequenceConfig):
    """Widths; what attends is in the `attention` section."""

    heads: Int = Field(ge=1, le=WIDEST)  # h
    head: Int = Field(ge=2)  # d, the width of a head
    hidden: Int = Field(ge=1, le=WIDEST)  # width of the MLPs
    layers: Int = Field(ge=1, le=DEEPEST)
    window: Int = Field(ge=2, le=LONGEST)  # steps that a step sees, itself included

    def __post_init__(self) -> None:
        if self.head % 2:
            raise ValueError(f"sequence.head={self.head} must be even: rotary phases turn pairs of features")

    def check(self, root: Any) -> None:
        if root.world_model.posterior != "decoupled":
            raise ValueError(
                f"world_model.posterior={root.world_model.posterior} needs a recurrent model, "
                "sequence=gru or gru_attention: "
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

    memory: Memory = NoMemory()

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

    def attentions(self) -> list[CausalAttention]:
        return [block.attention for block in self.layers()]

    def initial(self, batch: int) -> KVCache:
        return KVCache.empty(self.attentions(), batch, self.norm.scale)

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
        visibility = state.followed_by(is_first, self.window)
        positions = state.position + torch.arange(x.shape[1], device=x.device)
        turn = phases(positions, self.head, x.dtype)
        trails: list[Any] = []
        for block, past in zip(self.layers(), state.layers, strict=True):
            x, trail = block(x, past, visibility, turn)
            trails.append(trail)
        return self.norm(x), ObservedStates(tuple(trails), visibility, state.position)

    @torch.no_grad()
    def inspect(self, h: Tensor, stoch: Tensor, action: Tensor, is_first: Tensor) -> list[LayerView]:
        state = self.initial(len(stoch))
        previous = torch.cat([torch.zeros_like(stoch[:, :1]), stoch[:, :-1]], 1)
        x = self.stoch_in(previous * (1.0 - is_first).unsqueeze(-1)) + self.action_embedding(action, is_first)
        visibility = state.followed_by(is_first, self.window)
        turn = phases(torch.arange(x.shape[1], device=x.device), self.head, x.dtype)
        views = []
        for block, past in zip(self.layers(), state.layers, strict=True):
            heads, attention = block.project(x, turn), block.attention
            views.append(view_layer(attention.kind, heads, visibility, block.qkv.weight.grad))
            x = block.residual(x, attention.attend(heads, attention.append(heads, past), visibility))
        return views

    def last(self, states: ObservedStates) -> KVCache:
        return states.last(self.attentions())

    def step(
        self,
        stoch: Tensor,
        action_embedding: Tensor,
        is_first: Tensor | None,
        state: KVCache | Starts | RolloutState,
    ) -> tuple[Tensor, KVCache | RolloutState]:
        if isinstance(state, KVCache):
            first = stoch.new_zeros(len(stoch), 1) if is_first is None else is_first.unsqueeze(1)
            hs, trail = self._observe(stoch.unsqueeze(1), action_embedding.unsqueeze(1), first, state)
            return hs.squeeze(1), self.last(trail)
        if is_first is not None:
            raise ValueError("imagined futures hold no resets: pass is_first=None")
        now = state.begin(self.attentions(), self.window) if isinstance(state, Starts) else state
        x = (self.stoch_in(stoch) + action_embedding).unsqueeze(1)  # (N, 1, D)
        future, turn = now.future(x), phases(now.position, self.head, x.dtype)
        memories = []
        for block, memory in zip(self.layers(), now.layers, strict=True):
            attended, memory = block.attention.imagine(block.project(x, turn), memory, future)
            memories.append(memory)
            x = block.residual(x, attended.unsqueeze(2))
        return self.norm(x.squeeze(1)), now.after(memories)

    def select(self, states: ObservedStates, b: Tensor | None, t: Tensor) -> Starts:
        return states.select(b, t)

    def native_rollout(self, state: Any, memory: Any, horizon: int) -> native.TransformerRollout | None:
        if not isinstance(state, Starts):
            return None
        futures = native_futures(self.layers(), state, self.stoch_in, self.norm, horizon)
        if futures is None:
            return None
        hidden, mix = self.action_in.layers()[0], self.mix_action
        return native.TransformerRollout(native.ActionWeights(hidden, mix.weight, mix.bias), futures)

    def native_weights(self) -> None:
        """Return None: no kernel takes them all."""

    def native_filter(self, memory: Any) -> None:
        """Return None: no kernel takes one step."""

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

"""Block GRU, DreamerV3's sequence model (its code: danijar/dreamerv3).

    x   = [f(h), f(z), f(a)]                       f = Linear → RMSNorm → SiLU, width `hidden`
    y   = f_block([h_g, x] for each block g)       `layers` times, block-diagonal in h
    r, c, u = gates(y);   h' = σ(u−1)·tanh(σ(r)·c) + (1 − σ(u−1))·h

The part of the first layer that x feeds is repeated for every block, so it is one dense product
[3·hidden → D]; its rows that belong to the action do not depend on the recurrence and are hoisted
out of the time loop (`action_embedding`).
"""

from typing import Any, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from qdreamer import native
from qdreamer.configs.schema import DEEPEST, WIDEST, Int, settings
from qdreamer.native.products import affine, blockwise
from qdreamer.worldmodel.networks.layers import MLP, BlockLinear, NormSiLU, init_weight
from qdreamer.worldmodel.sequence_models.interface import SEQUENCE_MODELS, SequenceConfig
from qdreamer.worldmodel.sequence_models.layer_view import LayerView
from qdreamer.worldmodel.sequence_models.memory import Memory, NoMemory


@settings
class GRUConfig(SequenceConfig):
    hidden: Int = Field(ge=1, le=WIDEST)
    blocks: Int = Field(ge=1, le=WIDEST)
    layers: Int = Field(ge=1, le=DEEPEST)

    def __post_init__(self) -> None:
        if self.deter % self.blocks:
            raise ValueError(
                f"sequence.deter={self.deter} must be a multiple of sequence.blocks={self.blocks}"
            )


@SEQUENCE_MODELS.register("gru", GRUConfig)
class BlockGRU(nn.Module):
    """See the module's docstring; shapes as in `worldmodel.sequence_models.interface.SequenceModel`.

    Raises ValueError when `deter` does not divide by `blocks`.
    """

    def __init__(
        self, stoch: int, action: int, deter: int, hidden: int, blocks: int, layers: int = 1
    ) -> None:
        super().__init__()
        self.deter, self.blocks = deter, blocks
        self.memory: Memory = NoMemory()
        self.deter_in = MLP(deter, hidden, 1)
        self.stoch_in = MLP(stoch, hidden, 1)
        self.action_in = MLP(action, hidden, 1, bias_std=1.0)
        # The reference counts the whole grouped input, repeats included, as fan-in.
        fan_in = deter + blocks * 3 * hidden
        self.recur = BlockLinear(deter, deter, blocks, fan_in)
        self.mix_action = nn.Linear(hidden, deter, bias=False)
        self.mix_state = nn.Linear(2 * hidden, deter, bias=False)
        init_weight(self.mix_action.weight, fan_in)
        init_weight(self.mix_state.weight, fan_in)
        self.norm = NormSiLU(deter)
        self.more = nn.Sequential()
        for _ in range(layers - 1):
            self.more.extend([BlockLinear(deter, deter, blocks, deter), NormSiLU(deter)])
        self.gates = BlockLinear(deter, 3 * deter, blocks, deter)

    @classmethod
    def make(cls, config: Any, attention: Any, stoch: int, action: int, quantum: Any) -> Self:
        return cls(stoch, action, config.deter, config.hidden, config.blocks, config.layers)

    def initial(self, batch: int) -> Tensor:
        return self.norm.scale.new_zeros(batch, self.deter)

    def action_embedding(self, action: Tensor, is_first: Tensor | None) -> Tensor:
        if is_first is not None:
            action = action * (1.0 - is_first).unsqueeze(-1)
        # Actions of any size enter with magnitude at most 1, as in the reference.
        action = action / action.detach().abs().clamp(min=1.0)
        return self.mix_action(self.action_in(action)) + self.recur.bias

    def step(
        self, stoch: Tensor, action_embedding: Tensor, is_first: Tensor | None, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        if is_first is not None:
            keep = (1.0 - is_first).unsqueeze(-1)  # (B, 1)
            state, stoch = state * keep, stoch * keep
        h = self._cell(state, self.stoch_in(stoch), action_embedding)
        return h, h

    def observe(
        self, stoch: Tensor, action: Tensor, is_first: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        keep = (1.0 - is_first).unsqueeze(-1)  # (B, T, 1)
        z_in = self.stoch_in(stoch * keep)  # (B, T, hidden)
        action_embedding = self.action_embedding(action, is_first)  # (B, T, D)
        hs = []
        for z, u, k in zip(z_in.unbind(1), action_embedding.unbind(1), keep.unbind(1), strict=True):
            state = self._cell(state * k, z, u)
            hs.append(state)
        h = torch.stack(hs, 1)  # (B, T, D)
        return h, h

    def inspect(self, h: Tensor, stoch: Tensor, action: Tensor, is_first: Tensor) -> list[LayerView]:
        return []

    def last(self, states: Tensor) -> Tensor:
        return states[:, -1]

    def _cell(self, h: Tensor, z_in: Tensor, action_embedding: Tensor) -> Tensor:
        """Return the next h, from h (B, D), f(z) (B, hidden) and the action's embedding (B, D)."""
        x = torch.cat([self.deter_in(h), z_in], -1)  # (B, 2·hidden)
        y = blockwise(h, self.recur.weight, affine(x, self.mix_state.weight, action_embedding))
        gates = self.gates(self.more(self.norm(y))).unflatten(-1, (self.blocks, 3, -1))  # (B, g, 3, D/g)
        reset, candidate, update = gates.unbind(2)
        candidate = torch.tanh(torch.sigmoid(reset) * candidate)
        return torch.lerp(h.view_as(candidate), candidate, torch.sigmoid(update - 1.0)).view_as(h)

    def native_weights(self) -> native.GRUWeights | None:
        """Return what kernels of the recurrence need; none knows more than one layer."""
        if len(self.more):
            return None
        return native.GRUWeights(
            *self.deter_in.layers()[0], *self.stoch_in.layers()[0], self.recur.weight,
            self.mix_state.weight, self.norm.scale, self.gates.weight, self.gates.bias,
        )  # fmt: skip

    def select(self, states: Tensor, b: Tensor | None, t: Tensor) -> Tensor:
        if b is None:
            return states.gather(1, t.unsqueeze(-1).expand(-1, -1, self.deter)).flatten(0, 1)
        return states[b, t]

    def schedule(self, update: int) -> None:
        """Nothing here follows one."""

    def native_rollout(self, state: Tensor, memory: Any, horizon: int) -> native.GRURollout | None:
        cell = self.native_weights()
        return None if cell is None else native.GRURollout(self._action_weights(), cell, state)

    def native_filter(self, memory: Any) -> native.Recurrence | None:
        cell = self.native_weights()
        return None if cell is None else native.Recurrence(self._action_weights(), cell)

    def _action_weights(self) -> native.ActionWeights:
        return native.ActionWeights(self.action_in.layers()[0], self.mix_action.weight, self.recur.bias)

    def pack(self, state: Tensor) -> Tensor:
        return state

    def unpack(self, packed: Tensor) -> Tensor:
        return packed

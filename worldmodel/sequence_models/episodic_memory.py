"""Causal attention over an episode's past, beside a recurrent state.

    y_t = W′h_t + W z_t + V a_{t−1}          key and value of step t
    x_t = W″h_t + W z_{t−1} + V a_{t−1}      asks only
    m_t = read(x_t over y_1 … y_{t−1}),      m′_t = read(y_t over y_1 … y_t)

`read` is one block of the transformer and a norm; zero where there is nobody to see. Tokens hold the latents
themselves: from h alone the look-up is never learned.

A replayed sequence begins with the tokens of the rows before it, made from the h and z that replay has kept
of their last visit: one projection, without recurrence, and with gradients to the projections alone.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from qdreamer import native
from qdreamer.native.products import linear
from qdreamer.worldmodel.attention.rotary import Phases, phases
from qdreamer.worldmodel.networks.layers import Linear, RMSNorm, init_weight
from qdreamer.worldmodel.sequence_models.block import Block, native_futures
from qdreamer.worldmodel.sequence_models.context import CausalAttention, KeyValues
from qdreamer.worldmodel.sequence_models.history import KVCache, ObservedStates, RolloutState, Starts
from qdreamer.worldmodel.sequence_models.layer_view import LayerView, view_layer


class StoredPast(NamedTuple):
    """The state that replay has kept, as c steps."""

    steps: Tensor  # (B, c, D + S·K + A): h, z and the action that led there
    segments: Tensor  # (B, c), 0 for steps of the episode that goes on, −1 for others


class Asked(NamedTuple):
    """An imagined step between its two reads."""

    h: Tensor  # (N, D)
    token: Tensor  # (N, E), y without its latent
    state: RolloutState


class EpisodicMemory(nn.Module):
    """See the module's docstring; shapes as in `worldmodel.sequence_models.memory.Memory`.

    Args:
        attention: of h heads of d features. deter, stoch, action: D, S·K and A. width: E.
        hidden: width of the block's MLP. filled: whether replayed sequences begin with what was before them.
        decay: gates, for kinds whose past fades.
    """

    def __init__(
        self,
        attention: CausalAttention,
        deter: int,
        stoch: int,
        action: int,
        width: int,
        hidden: int,
        window: int,
        filled: bool,
        decay: bool,
    ) -> None:
        super().__init__()
        self.width, self.window, self.context = width, window, window - 1 if filled else 1
        self.filled = filled
        attention.kind.soften()
        self.deter_in = nn.Linear(deter, 2 * width, bias=False)  # W′, then W″
        init_weight(self.deter_in.weight, deter)
        self.stoch_in = Linear(stoch, width)
        self.action_in = nn.Linear(action, width, bias=False)
        init_weight(self.action_in.weight, action)
        kind = attention.kind
        self.block = Block(attention, width, kind.heads, kind.width, hidden, 1, decay)
        self.norm = RMSNorm(width)

    def initial(self, batch: int) -> KVCache:
        return KVCache.empty([self.block.attention], batch, self.norm.scale)

    def stored(self, state: Tensor, stoch: Tensor, action: Tensor, segments: Tensor) -> StoredPast | KVCache:
        if not self.filled:
            return self.initial(len(state))
        state, stoch, action, segments = (x[:, 1 - self.window :] for x in (state, stoch, action, segments))
        (rows, columns, latents), like = stoch.shape, self.norm.scale
        widths = self.deter_in.in_features, self.stoch_in.in_features, self.action_in.in_features
        steps = like.new_zeros(rows, columns, sum(widths))  # at once: copies of one-hot latents are large
        h, z, a = steps.split(widths, -1)
        h.copy_(state)
        z.unflatten(-1, (latents, -1)).scatter_(-1, stoch.long().unsqueeze(-1), 1.0)
        a.copy_(bounded(action))
        return StoredPast(steps, segments)

    def observe(
        self, h: Tensor, stoch: Tensor, before: Tensor, action: Tensor, is_first: Tensor,
        state: KVCache | StoredPast,
    ) -> tuple[Tensor, Tensor, ObservedStates]:  # fmt: skip
        tokens, stored, past, turn = self._tokens(h, stoch, before, action, is_first, state)
        visibility = past.followed_by(is_first, self.window)
        read, trail = self.block.recall(tokens, stored, past.layers[0], visibility, turn)
        seen, asked = self.norm(read).chunk(2, 1)  # (B, T, E)
        asked = asked * visibility.follows.unsqueeze(-1)
        states = ObservedStates((trail,), visibility, past.position + stored)
        return torch.cat([h, asked], -1), torch.cat([h, seen], -1), states

    def _tokens(
        self, h: Tensor, stoch: Tensor, before: Tensor, action: Tensor, is_first: Tensor,
        state: KVCache | StoredPast,
    ) -> tuple[Tensor, int, KVCache, Phases]:  # fmt: skip
        """Return tokens (B, c + 2·T, E), c, what was before the T steps, and phases.

        The tokens are y of c stored steps and of the T, then x of these. The past that is returned names the
        episodes of stored steps as well.
        """
        action = action * (1.0 - is_first).unsqueeze(-1)
        z = self.stoch_in(torch.cat([before.unsqueeze(1), stoch], 1))  # (B, 1 + T, E)
        stays, asks = (self.deter_in(h) + self._drive(action).repeat(1, 1, 2)).chunk(2, -1)  # (B, T, E)
        tokens, stored = [stays + z[:, 1:], asks + z[:, :-1]], 0
        if isinstance(state, StoredPast):
            stored, past = state.steps.shape[1], self.initial(len(h))._replace(segments=state.segments)
            maps = self.deter_in.weight[: self.width], self.stoch_in.weight, self.action_in.weight
            old = linear(state.steps.flatten(0, 1), torch.cat(maps, 1), self.stoch_in.bias)
            tokens.insert(0, old.view(len(h), stored, -1))
        else:
            past = state
        positions = past.position + torch.arange(stored + h.shape[1], device=h.device)
        turn = self._phases(torch.cat([positions, positions[..., stored:]], -1), h.dtype)
        return torch.cat(tokens, 1), stored, past, turn

    def _drive(self, action: Tensor) -> Tensor:
        driven: Tensor = self.action_in(bounded(action))
        return driven

    def _phases(self, positions: Tensor, dtype: torch.dtype) -> Phases:
        return phases(positions, self.block.attention.kind.width, dtype)

    def last(self, states: ObservedStates) -> KVCache:
        return states.last([self.block.attention])

    def filtered(self, kept: tuple[Tensor, Tensor, Tensor] | None, state: KVCache) -> KVCache:
        assert kept is not None
        k, v, segments = kept
        past = KeyValues(k[:, :, 1 - self.window :], v[:, :, 1 - self.window :])
        return KVCache((past,), segments[:, 1 - self.window :], state.position + 1)

    def select(self, states: ObservedStates, b: Tensor | None, t: Tensor) -> Starts:
        return states.select(b, t)

    def ask(
        self, h: Tensor, before: Tensor, action: Tensor, state: KVCache | Starts | RolloutState
    ) -> tuple[Tensor, Asked]:
        if not isinstance(state, RolloutState):
            state = state.begin([self.block.attention], self.window)
        stays, asks = (self.deter_in(h) + self._drive(action).repeat(1, 2)).chunk(2, -1)  # (N, E)
        if state.step or state.distance.shape[-1]:
            x = (asks + self.stoch_in(before)).unsqueeze(1)  # (N, 1, E)
            heads = self.block.project(x, self._phases(state.position, h.dtype))
            read = self._read(x, self.block.attention.ask(heads, state.layers[0], state.future(h)))
        else:  # nothing has happened yet
            read = torch.zeros_like(stays)
        return torch.cat([h, read], -1), Asked(h, stays, state)

    def append(self, stoch: Tensor, asked: Asked) -> tuple[Tensor, RolloutState]:
        h, token, state = asked
        y = (token + self.stoch_in(stoch)).unsqueeze(1)  # (N, 1, E)
        heads = self.block.project(y, self._phases(state.position, h.dtype))
        attended, memory = self.block.attention.imagine(heads, state.layers[0], state.future(h))
        return torch.cat([h, self._read(y, attended)], -1), state.after([memory])

    def _read(self, token: Tensor, attended: Tensor) -> Tensor:
        """(N, 1, E), (N, h, d) → (N, E)."""
        read: Tensor = self.norm(self.block.residual(token, attended.unsqueeze(2))).squeeze(1)
        return read

    @torch.no_grad()
    def inspect(self, h: Tensor, stoch: Tensor, action: Tensor, is_first: Tensor) -> LayerView:
        """Return what the second read did in `observe` from the beginning."""
        state, before = self.initial(len(h)), torch.zeros_like(stoch[:, 0])
        tokens, _, past, turn = self._tokens(h, stoch, before, action, is_first, state)
        heads, _ = self.block.project(tokens, turn).split(h.shape[1])
        visibility = past.followed_by(is_first, self.window)
        return view_layer(self.block.attention.kind, heads, visibility, self.block.qkv.weight.grad)

    def native_rollout(self, state: Any, horizon: int) -> native.MemoryRollout | None:
        """Return what C needs to imagine `horizon` steps from a state of `select`, or None."""
        if not isinstance(state, Starts):
            return None
        futures = native_futures([self.block], state, self.stoch_in, self.norm, horizon)
        if futures is None:
            return None
        stays, asks = self.deter_in.weight.chunk(2)
        return native.MemoryRollout(futures, stays, asks, self.action_in.weight)

    def native_filter(self, state: Any) -> native.Reading | None:
        """Return what C needs to read after one step from a state that is no stored past, or None."""
        past = state.layers[0] if isinstance(state, KVCache) else None
        if not isinstance(past, KeyValues) or self.block.decay is not None:
            return None
        form = self.block.attention.kind.native_form(learning=False)
        block, stoch = self.block.native_weights(form), self.stoch_in
        stays, action, norm = self.deter_in.weight[: self.width], self.action_in.weight, self.norm.scale
        at = state.segments, state.position
        return native.Reading(stays, stoch.weight, stoch.bias, action, block, norm, *past, *at)


def bounded(action: Tensor) -> Tensor:
    """Return actions with magnitude at most 1, as they enter the recurrence."""
    return action / action.detach().abs().clamp(min=1.0)

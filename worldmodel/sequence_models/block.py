"""A block of the transformer: attention over time, then an MLP, each after a norm and added to its input."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from qdreamer import native
from qdreamer.worldmodel.attention.decay import DecayGate
from qdreamer.worldmodel.attention.rotary import Phases, phases, rotate_by
from qdreamer.worldmodel.networks.layers import MLP, Linear, RMSNorm, init_weight
from qdreamer.worldmodel.sequence_models.context import QKV, CausalAttention, Visibility
from qdreamer.worldmodel.sequence_models.history import Starts


class Block(nn.Module):
    """See the module's docstring.

    Args:
        attention: of h heads of d features. layers: L, of the transformer. decay: gates for what fades.
    """

    attention: CausalAttention

    def __init__(
        self,
        attention: CausalAttention,
        width: int,
        heads: int,
        head: int,
        hidden: int,
        layers: int,
        decay: bool,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.attention = attention
        self.norm = RMSNorm(width)
        self.qkv = Linear(width, 3 * heads * head)
        if not attention.kind.learned_keys:
            freeze_rows(self.qkv, heads * head, 2 * heads * head)
        self.out = _branch(heads * head, width, layers)
        self.mlp = MLP(width, hidden, 1)
        self.mlp_out = _branch(hidden, width, layers)
        self.decay = DecayGate(width, heads) if decay else None

    def project(self, x: Tensor, turn: Phases) -> QKV:
        """Tokens (B, T, E) and the phases of their positions → heads."""
        y = self.norm(x)
        parts = self.qkv(y).unflatten(-1, (3 * self.heads, -1)).transpose(1, 2)  # (B, 3·h, T, d)
        qk, v = parts.split([2 * self.heads, self.heads], 1)
        log_decay = None if self.decay is None else self.decay(y)  # (B, h, T)
        return QKV(rotate_by(qk, turn) if self.attention.kind.compares else qk, v, log_decay)

    def residual(self, x: Tensor, attended: Tensor) -> Tensor:
        """Tokens (B, T, E) and what was attended to (B, h, T, d) → tokens."""
        x = x + self.out(attended.transpose(1, 2).flatten(-2))
        return x + self.mlp_out(self.mlp(x))

    def forward(self, x: Tensor, past: Any, visibility: Visibility, turn: Phases) -> tuple[Tensor, Any]:
        """Return what becomes of the tokens (B, T, E) of T steps after a past, and their trail."""

        def modules() -> tuple[Tensor, Any]:
            heads = self.project(x, turn)
            trail = self.attention.append(heads, past)
            return self.residual(x, self.attention.attend(heads, trail, visibility)), trail

        def keep(qk: Tensor, v: Tensor) -> Any:
            return self.attention.append(QKV(qk, v, None), past)

        sight = native.Sight(visibility.segments, visibility.window)
        weights = self.native_weights(self.attention.native_form())
        return native.transformer_block(modules, keep, x, weights, turn, sight)

    def recall(
        self, x: Tensor, stored: int, past: Any, visibility: Visibility, turn: Phases
    ) -> tuple[Tensor, Any]:
        """Take T steps that see themselves, then once more as askers, who see the steps before theirs only.

        Args:
            x: (B, c + 2·T, E), tokens of c earlier steps that are seen only, of the T, and of the askers.
            stored: c. past: before them. visibility: of the T steps.
        Returns:
            Tokens (B, 2·T, E), and the trail of the T steps.
        """
        attention, steps, window = self.attention, visibility.steps, visibility.window

        def modules() -> tuple[Tensor, Any]:
            heads, asking = self.project(x, turn).split(stored + steps)
            trail = attention.append(heads, past)
            attended = attention.recall(heads, asking, trail, visibility)  # (B, h, 2·T, d)
            return self.residual(x[:, stored:], attended), trail

        def keep(qk: Tensor, v: Tensor) -> Any:
            return attention.append(QKV(qk, v, None).split(stored + steps)[0], past)

        sight = native.Sight(visibility.segments, window, stored, asks=True)
        weights = self.native_weights(attention.native_form())
        return native.transformer_block(modules, keep, x, weights, turn, sight)

    def native_weights(self, form: native.AttentionForm | None) -> native.BlockWeights:
        """Return what C needs to run this block with weights of some form."""
        return native.BlockWeights(
            self.heads, form, self.norm.scale, self.qkv.weight, self.qkv.bias,
            self.out.weight, self.mlp.layers()[0], self.mlp_out.weight,
        )  # fmt: skip

    def native_past(self, trail: Any, visibility: Visibility) -> native.FutureLayer | None:
        """Return what C needs to run imagined steps of this block, or None."""
        past = self.attention.native_past(trail, visibility)
        gate = None if self.decay is None else (self.decay.weight, self.decay.bias)
        return None if past is None else native.FutureLayer(self.native_weights(past.form), past, gate)


def native_futures(
    blocks: Sequence[Block], starts: Starts, stoch_in: nn.Linear, norm: RMSNorm, horizon: int
) -> native.FutureBlocks | None:
    """Return what C needs to imagine `horizon` steps of blocks on tokens stoch_in(z) + …, or None."""
    (trails, visibility, position), b, t = starts
    pasts = [block.native_past(trail, visibility) for block, trail in zip(blocks, trails, strict=True)]
    layers = [past for past in pasts if past is not None]
    if len(layers) < len(blocks):
        return None
    positions = position + 1 + torch.arange(visibility.steps + horizon, device=t.device)
    turn = phases(positions, blocks[0].attention.kind.width, norm.scale.dtype)
    return native.FutureBlocks(
        stoch_in.weight, stoch_in.bias, norm.scale, layers, b, t, visibility.segments, visibility.steps,
        visibility.window, turn,
    )  # fmt: skip


def freeze_rows(linear: nn.Linear, first: int, end: int) -> None:
    """No gradient for these outputs: they stay as they are."""
    learns = torch.ones(linear.out_features)
    learns[first:end] = 0.0
    linear.weight.register_hook(lambda grad: grad * learns.to(grad)[:, None])
    linear.bias.register_hook(lambda grad: grad * learns.to(grad))


def _branch(width: int, to: int, layers: int) -> nn.Linear:
    """The end of one of 2·L branches, whose sum keeps the size of its terms."""
    linear = nn.Linear(width, to, bias=False)
    init_weight(linear.weight, width, scale=(2 * layers) ** -0.5)
    return linear

"""Drop-in for `torch.nn.MultiheadAttention` with any kind of attention inside."""

from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qdreamer.worldmodel.attention.born import Born
from qdreamer.worldmodel.attention.config import make_kind
from qdreamer.worldmodel.attention.decay import DecayGate, decay_bias
from qdreamer.worldmodel.attention.kernel import causal, segment_causal, segment_ids
from qdreamer.worldmodel.attention.rotary import rotate


class KeyValueCache(NamedTuple):
    """Room for L steps, filled from the left, in place."""

    keys: Tensor  # (B, h, L, d)
    values: Tensor  # (B, h, L, dv)
    bias: Tensor  # (B, h, L): Σ log γ since each step, −∞ for those that the running episode does not have
    length: int  # steps filled

    def append(self, k: Tensor, v: Tensor, is_first: Tensor | None, log_decay: Tensor | None) -> Self:
        """Add k (B, h, d), v (B, h, dv), and damp what is there by log γ (B, h).

        Rows that begin an episode forget what they hold. Raises ValueError when the cache is full.
        """
        if self.length == self.keys.shape[2]:
            raise ValueError(f"the cache is full after {self.length} steps: begin with a larger `room`")
        if is_first is not None:
            self.bias.masked_fill_((is_first > 0.5)[:, None, None], -torch.inf)
        if log_decay is not None:
            self.bias.add_(log_decay.unsqueeze(-1))
        self.keys[:, :, self.length] = k
        self.values[:, :, self.length] = v
        self.bias[:, :, self.length] = 0.0
        return self._replace(length=self.length + 1)


class RecurrentCache(NamedTuple):
    """The state of a kind that is linear in time: constant size."""

    state: Tensor  # (B, h, φ, dv + 1)
    length: int


Cache = KeyValueCache | RecurrentCache


class QuantumMultiheadAttention(nn.MultiheadAttention):
    """Constructor, parameters and `forward` of `torch.nn.MultiheadAttention`, and more by keyword.

    With `kind="softmax"` the state dicts of both fit each other and so do the outputs. Where
    `nn.MultiheadAttention` gives NaN, because a query may see no key, the output is that of zero
    attention (the output projection's bias), and `is_causal=True` works without a mask.

    Args:
        embed_dim … dtype: as in `torch.nn.MultiheadAttention`.
        kind: name in `config.ATTENTION`.
        rotary: turn queries and keys by the phases of their positions.
        decay: a learned decay gate; then every call must be causal self-attention.
        settings: those of the kind.
    Raises ValueError when the heads do not divide embed_dim, and for options that do not go together.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        kind: str = "softmax",
        rotary: bool = False,
        decay: bool = False,
        **settings: Any,
    ) -> None:
        if num_heads < 1 or embed_dim % num_heads:
            raise ValueError(f"num_heads={num_heads} must divide embed_dim={embed_dim}")
        if add_zero_attn and kind not in ("softmax", "sampled", "uniform"):
            raise ValueError(f"add_zero_attn: {kind} attention compares unit vectors, and zero is none")
        if decay and (add_bias_kv or add_zero_attn):
            raise ValueError("decay needs keys with a time: leave out add_bias_kv and add_zero_attn")
        super().__init__(
            embed_dim, num_heads, dropout, bias, add_bias_kv, add_zero_attn, kdim, vdim, batch_first, device,
            dtype,
        )  # fmt: skip
        self._qkv_same_embed_dim = False  # so that nn.TransformerEncoderLayer's fused softmax keeps off
        self.rotary = rotary
        self.kind = make_kind(kind, num_heads, self.head_dim, **settings).to(device=device, dtype=dtype)
        if not (self.kind.learned_keys and self.kind.compares):
            raise ValueError(
                f"{kind} is a control in sequence models only: here its keys would learn, or have no use"
            )
        self.gate = DecayGate(embed_dim, num_heads, device=device, dtype=dtype) if decay else None

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
        *,
        is_first: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """As `nn.MultiheadAttention.forward`.

        Args:
            key_padding_mask, attn_mask: boolean (True = not allowed) or float (added to log κ).
            is_causal: a hint when there is an attn_mask; without one, the mask.
            is_first: (B, N), 1 where an episode begins: causal self-attention within episodes.
            generator: for kinds that draw.
        Returns:
            The output, and with `need_weights` the weights that were applied (dropout included),
            (B, N, M), or (B, h, N, M) unless averaged over heads.
        Raises ValueError for shapes that do not fit together. Nested tensors are taken where they are query,
        key and value at once, as nn.TransformerEncoder makes them of padding masks.
        """
        if query.is_nested:
            return self._forward_nested(
                query, key, value, need_weights, attn_mask, average_attn_weights, is_causal, generator
            )
        self._check_shapes(query, key, value)
        inputs: tuple[Tensor, ...] = query, key, value
        if query is key and key is value and self.in_proj_weight is not None:
            inputs = inputs[:1]
        batched = query.dim() == 3
        if not batched:
            inputs = tuple(x.unsqueeze(0) for x in inputs)
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            inputs = tuple(x.transpose(0, 1) for x in inputs)
        q, k, v = self._heads(inputs)
        log_decay = None if self.gate is None else self.gate(inputs[0])
        over_time = is_first is not None or (is_causal and attn_mask is None)
        if over_time and q.shape[2] != k.shape[2]:
            raise ValueError(f"causal attention of {q.shape[2]} queries to {k.shape[2]} keys: give a mask")
        if log_decay is not None and not over_time:
            raise ValueError("decay needs causal self-attention: pass is_causal=True without attn_mask")
        segments = None if is_first is None else segment_ids(is_first)
        dropout = self.dropout if self.training else 0.0
        weights = None
        plain = over_time and attn_mask is None and not need_weights and not self._extra_keys
        if plain and (key_padding_mask is None or key_padding_mask.dtype == torch.bool):
            valid = None if key_padding_mask is None else ~key_padding_mask
            out = self.kind.attend_causal(q, k, v, segments, valid, log_decay, dropout, generator)
        else:
            mask, bias = None, from_multihead(attn_mask, key_padding_mask, self.num_heads, q.dtype)
            if over_time:
                mask = causal(q.shape[2], q.device) if segments is None else segment_causal(segments)
            if log_decay is not None:
                decay = decay_bias(log_decay, segments)
                bias = decay if bias is None else bias + decay
            k, v, mask, bias = self._with_extra_keys(k, v, mask, bias)
            if need_weights:
                weights = self.kind.applied_weights(q, k, mask, bias, dropout, generator)
                out = weights @ v
            else:
                out = self.kind.attend(q, k, v, mask, bias, dropout, generator)
        output = self.out_proj(out.transpose(1, 2).flatten(-2))  # (B, N, E)
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if not batched:
            return output.squeeze(0), None if weights is None else weights.squeeze(0)
        return output if self.batch_first else output.transpose(0, 1), weights

    def _forward_nested(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        need_weights: bool,
        attn_mask: Tensor | None,
        average_attn_weights: bool,
        is_causal: bool,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, Tensor | None]:
        if not (query is key and key is value and self.batch_first):
            raise ValueError("nested tensors are taken for self-attention with batch_first=True only")
        lengths = [len(row) for row in query.unbind()]
        padded = query.to_padded_tensor(0.0)  # (B, N, E)
        steps = torch.arange(padded.shape[1], device=padded.device)
        padding = steps >= torch.tensor(lengths, device=padded.device).unsqueeze(1)  # (B, N)
        out, weights = self.forward(
            padded, padded, padded, padding, need_weights, attn_mask, average_attn_weights, is_causal,
            generator=generator,
        )  # fmt: skip
        rows = [row[:length] for row, length in zip(out, lengths, strict=True)]
        return torch.nested.as_nested_tensor(rows), weights

    def _check_shapes(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        shown = f"query {tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)}"
        dims = {query.dim(), key.dim(), value.dim()}
        if len(dims) > 1 or not dims <= {2, 3}:
            raise ValueError(f"{shown}: all must have two axes, (N, E), or three")
        widths = self.embed_dim, self.kdim, self.vdim
        if (query.shape[-1], key.shape[-1], value.shape[-1]) != widths:
            raise ValueError(f"{shown}: their last axes must be {', '.join(map(str, widths))}")
        batch = 0 if self.batch_first else 1
        if key.shape[:-1] != value.shape[:-1] or (
            query.dim() == 3 and query.shape[batch] != key.shape[batch]
        ):
            raise ValueError(f"{shown}: batches must be equal, and as many values as keys")

    def begin(self, batch: int, room: int) -> Cache:
        """An empty cache for `step`; `room` steps at most for kinds that keep keys and values."""
        like = self.out_proj.weight
        if isinstance(self.kind, Born) and self.kind.linear:
            return RecurrentCache(self.kind.initial(batch, self.head_dim, like), 0)
        shape = batch, self.num_heads, room, self.head_dim
        unseen = like.new_full(shape[:-1], -torch.inf)
        return KeyValueCache(like.new_zeros(shape), like.new_zeros(shape), unseen, 0)

    @torch.no_grad()
    def step(
        self,
        x: Tensor,
        cache: Cache,
        is_first: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Cache]:
        """One step of causal self-attention: x (B, E), is_first (B) → (B, E) and the cache after it.

        Equals `forward(x, x, x, is_causal=True, is_first=…)` without dropout. Key-value caches are
        written in place. Raises ValueError when the cache is full, and if the module is not made for
        self-attention alone.
        """
        if self._extra_keys or self.in_proj_weight is None:
            raise ValueError("step is self-attention: leave out kdim, vdim, add_bias_kv and add_zero_attn")
        q, k, v = self._heads((x.unsqueeze(1),), cache.length)  # (B, h, 1, d)
        log_decay = None if self.gate is None else self.gate(x.unsqueeze(1)).squeeze(-1)  # (B, h)
        now = k.squeeze(2), v.squeeze(2)
        if isinstance(cache, RecurrentCache):
            assert isinstance(self.kind, Born)
            out, state = self.kind.step(q.squeeze(2), *now, cache.state, log_decay, is_first)
            return self.out_proj(out.flatten(1)), RecurrentCache(state, cache.length + 1)
        cache = cache.append(*now, is_first, log_decay)
        keys, values, bias = (x[:, :, : cache.length] for x in cache[:3])
        out = self.kind.attend(q, keys, values, None, bias.unsqueeze(2), generator=generator)
        return self.out_proj(out.squeeze(2).flatten(1)), cache

    def _heads(self, inputs: tuple[Tensor, ...], start: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Projections (B, N, ·) → (B, h, N, d), with the phases of positions from `start` on.

        Args:
            inputs: query, key and value, or the one tensor that is all three.
        """
        if len(inputs) == 1:
            q, k, v = F.linear(inputs[0], self.in_proj_weight, self.in_proj_bias).chunk(3, -1)
        else:
            maps: tuple[Tensor, ...] = self.q_proj_weight, self.k_proj_weight, self.v_proj_weight
            if self.in_proj_weight is not None:
                maps = self.in_proj_weight.chunk(3)
            biases = 3 * (None,) if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
            q, k, v = map(F.linear, inputs, maps, biases)
        q, k, v = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (q, k, v))
        if self.rotary:
            q, k = (rotate(x, torch.arange(start, start + x.shape[2], device=x.device)) for x in (q, k))
        return q, k, v

    @property
    def _extra_keys(self) -> int:
        return int(self.bias_k is not None) + int(self.add_zero_attn)

    def _with_extra_keys(
        self, k: Tensor, v: Tensor, mask: Tensor | None, bias: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Append the learned key of `add_bias_kv` and the zero key of `add_zero_attn`; all may see them."""
        if self.bias_k is not None and self.bias_v is not None:
            own = (
                x.view(1, self.num_heads, 1, -1).expand(len(k), -1, -1, -1)
                for x in (self.bias_k, self.bias_v)
            )
            k, v = (torch.cat(pair, -2) for pair in zip((k, v), own, strict=True))
        if self.add_zero_attn:
            k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
        mask = None if mask is None else F.pad(mask, (0, self._extra_keys), value=True)
        bias = None if bias is None else F.pad(bias, (0, self._extra_keys))
        return k, v, mask, bias


def from_multihead(
    attn_mask: Tensor | None, key_padding_mask: Tensor | None, heads: int, dtype: torch.dtype
) -> Tensor | None:
    """Masks of `nn.MultiheadAttention` → a bias, broadcastable to (B, h, N, M), or None.

    Args:
        attn_mask: (N, M) or (B·h, N, M); boolean with True = not allowed, or float, added.
        key_padding_mask: (B, M), likewise.
        dtype: of the bias that a boolean mask becomes.
    Raises TypeError for a mask that is neither boolean nor floating-point.
    """
    if attn_mask is not None and attn_mask.dim() == 3:
        attn_mask = attn_mask.unflatten(0, (-1, heads))
    if key_padding_mask is not None:
        key_padding_mask = key_padding_mask[:, None, None]  # (B, 1, 1, M)
    bias: Tensor | None = None
    for name, mask in (("attn_mask", attn_mask), ("key_padding_mask", key_padding_mask)):
        if mask is None:
            continue
        if mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, -torch.inf)
        elif not mask.is_floating_point():
            raise TypeError(f"{name} must be boolean or floating-point, not {mask.dtype}")
        bias = mask if bias is None else bias + mask
    return bias

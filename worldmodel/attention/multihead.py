"""Drop-in for `torch.nn.MultiheadAttention` with any kind of attention inside."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qdreamer.worldmodel.attention.born import Born
from qdreamer.worldmodel.attention.config import make_kind
from qdreamer.worldmodel.attention.decay import DecayGate, decay_bias
from qdreamer.worldmodel.attention.kernel import both, causal, plus, segment_causal, segment_ids
from qdreamer.worldmodel.attention.rotary import rotate


class KeyValueCache(NamedTuple):
    """Room for L steps, filled from the left, in place."""

    keys: Tensor  # (B, h, L, d), encoded
    values: Tensor  # (B, h, L, dv)
    seen: Tensor  # (B, L) boolean: filled, and of the running episode
    since: Tensor  # (B, h, L): Σ log γ since each step
    length: int  # steps filled

    @classmethod
    def empty(cls, batch: int, heads: int, room: int, width: int, like: Tensor) -> "KeyValueCache":
        shape = batch, heads, room, width
        seen = torch.zeros(batch, room, dtype=torch.bool, device=like.device)
        return cls(like.new_zeros(shape), like.new_zeros(shape), seen, like.new_zeros(shape[:-1]), 0)

    def append(
        self, k: Tensor, v: Tensor, is_first: Tensor | None = None, log_decay: Tensor | None = None
    ) -> "KeyValueCache":
        """Add k (B, h, d), v (B, h, dv), and damp what is there by log γ (B, h).

        Rows that begin an episode forget what they hold.

        Raises ValueError when the cache is full.
        """
        if self.length == self.keys.shape[2]:
            raise ValueError(f"the cache is full after {self.length} steps: begin with a larger `room`")
        if is_first is not None:
            self.seen.logical_and_((is_first <= 0.5).unsqueeze(-1))
        if log_decay is not None:
            self.since[:, :, : self.length] += log_decay.unsqueeze(-1)
        self.keys[:, :, self.length] = k
        self.values[:, :, self.length] = v
        self.seen[:, self.length] = True
        return self._replace(length=self.length + 1)


class RecurrentCache(NamedTuple):
    """The state of a kind that is linear in time: constant size."""

    state: Tensor  # (B, h, φ, dv + 1)
    length: int


Cache = KeyValueCache | RecurrentCache


class QuantumMultiheadAttention(nn.Module):
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

    _qkv_same_embed_dim = False  # so that nn.TransformerEncoderLayer's fused softmax keeps off

    in_proj_weight: nn.Parameter | None
    q_proj_weight: nn.Parameter  # these three only with kdim or vdim
    k_proj_weight: nn.Parameter
    v_proj_weight: nn.Parameter
    in_proj_bias: nn.Parameter | None
    bias_k: nn.Parameter | None
    bias_v: nn.Parameter | None

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
        super().__init__()
        if num_heads < 1 or embed_dim % num_heads:
            raise ValueError(f"num_heads={num_heads} must divide embed_dim={embed_dim}")
        if add_zero_attn and kind not in ("softmax", "sampled", "uniform"):
            raise ValueError(f"add_zero_attn: {kind} attention compares unit vectors, and zero is none")
        if decay and (add_bias_kv or add_zero_attn):
            raise ValueError("decay needs keys with a time: leave out add_bias_kv and add_zero_attn")
        self.embed_dim, self.num_heads, self.head_dim = embed_dim, num_heads, embed_dim // num_heads
        self.kdim, self.vdim = kdim or embed_dim, vdim or embed_dim
        self.dropout, self.batch_first, self.add_zero_attn = dropout, batch_first, add_zero_attn
        self.rotary = rotary
        # The projections, with their names and initialisation, are torch's own.
        like = nn.MultiheadAttention(
            embed_dim, num_heads, 0.0, bias, add_bias_kv, False, kdim, vdim, device=device, dtype=dtype
        )
        self.out_proj = like.out_proj
        for name, parameter in like.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name in ("in_proj_weight", "in_proj_bias", "bias_k", "bias_v"):
            if name not in self._parameters:
                self.register_parameter(name, None)
        self.kind = make_kind(kind, num_heads, self.head_dim, **settings).to(device=device, dtype=dtype)
        if not self.kind.learned_keys:
            raise ValueError(f"{kind} is a control of sequence=transformer: here its keys would learn")
        self.gate = DecayGate(embed_dim, num_heads).to(device=device, dtype=dtype) if decay else None

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
        """
        batched = query.dim() == 3
        to_self = query is key and key is value
        if not batched:
            query, key, value = (x.unsqueeze(0) for x in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        is_causal = is_causal or is_first is not None
        q, k, v = self._self_heads(query) if to_self else self._heads(query, key, value)
        log_decay = None if self.gate is None else self.gate(query)
        segments = None if is_first is None else segment_ids(is_first)
        dropout = self.dropout if self.training else 0.0
        mask, bias = from_multihead(attn_mask, key_padding_mask, self.num_heads)
        built = is_causal and (attn_mask is None or is_first is not None)
        if built and query.shape[1] != key.shape[1]:
            raise ValueError(
                f"causal attention of {query.shape[1]} queries to {key.shape[1]} keys: give a mask"
            )
        if log_decay is not None and not built:
            raise ValueError("decay needs causal self-attention: pass is_causal=True without attn_mask")
        extra = self.bias_k is not None or self.add_zero_attn
        weights = None
        if built and attn_mask is None and bias is None and not need_weights and not extra:
            valid = None if key_padding_mask is None else ~key_padding_mask
            out = self.kind.attend_causal(q, k, v, segments, valid, log_decay, dropout, generator)
        else:
            if built:
                steps = causal(q.shape[2], q.device) if segments is None else segment_causal(segments)
                mask = both(mask, steps)
            if log_decay is not None:
                bias = plus(bias, decay_bias(log_decay, segments))
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

    def begin(self, batch: int, room: int) -> Cache:
        """An empty cache for `step`; `room` steps at most for kinds that keep keys and values."""
        like = self.out_proj.weight
        if isinstance(self.kind, Born) and self.kind.linear:
            return RecurrentCache(self.kind.initial(batch, self.head_dim, like), 0)
        return KeyValueCache.empty(batch, self.num_heads, room, self.head_dim, like)

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
        if self.bias_k is not None or self.add_zero_attn or self.in_proj_weight is None:
            raise ValueError("step is self-attention: leave out kdim, vdim, add_bias_kv and add_zero_attn")
        q, k, v = self._self_heads(x.unsqueeze(1), cache.length)  # (B, h, 1, d)
        log_decay = None if self.gate is None else self.gate(x.unsqueeze(1)).squeeze(-1)  # (B, h)
        if isinstance(cache, RecurrentCache):
            assert isinstance(self.kind, Born)
            out, state = self.kind.step(
                q.squeeze(2), k.squeeze(2), v.squeeze(2), cache.state, log_decay, is_first
            )
            return self.out_proj(out.flatten(1)), RecurrentCache(state, cache.length + 1)
        cache = cache.append(self.kind.encode(k.squeeze(2)), v.squeeze(2), is_first, log_decay)
        filled = slice(0, cache.length)
        out = self.kind.attend(
            q,
            cache.keys[:, :, filled],
            cache.values[:, :, filled],
            cache.seen[:, None, None, filled],
            None if log_decay is None else cache.since[:, :, None, filled],
            generator=generator,
        )
        return self.out_proj(out.squeeze(2).flatten(1)), cache

    def _heads(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Projections (B, N, ·) → (B, h, N, d), with their phases."""
        biases = (None, None, None) if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        if self.in_proj_weight is None:
            maps: tuple[Tensor, ...] = self.q_proj_weight, self.k_proj_weight, self.v_proj_weight
        else:
            maps = self.in_proj_weight.chunk(3)
        q, k, v = map(F.linear, (query, key, value), maps, biases)
        return self._turned(q, k, v, 0)

    def _self_heads(self, x: Tensor, start: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """The same for x (B, N, E) as query, key and value, at positions from `start` on."""
        if self.in_proj_weight is None:
            return self._heads(x, x, x)
        q, k, v = F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, -1)
        return self._turned(q, k, v, start)

    def _turned(self, q: Tensor, k: Tensor, v: Tensor, start: int) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (q, k, v))
        if self.rotary:
            q, k = (rotate(x, torch.arange(start, start + x.shape[2], device=x.device)) for x in (q, k))
        return q, k, v

    def _with_extra_keys(
        self, k: Tensor, v: Tensor, mask: Tensor | None, bias: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Append the learned key of `add_bias_kv` and the zero key of `add_zero_attn`; all may see them."""
        if self.bias_k is not None and self.bias_v is not None:
            shape = len(k), 1, self.num_heads, self.head_dim
            k = torch.cat([k, self.bias_k.view(1, *shape[1:]).expand(shape).transpose(1, 2)], -2)
            v = torch.cat([v, self.bias_v.view(1, *shape[1:]).expand(shape).transpose(1, 2)], -2)
        if self.add_zero_attn:
            k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
        extra = int(self.bias_k is not None) + int(self.add_zero_attn)
        if extra:
            mask = None if mask is None else F.pad(mask, (0, extra), value=True)
            bias = None if bias is None else F.pad(bias, (0, extra))
        return k, v, mask, bias


def from_multihead(
    attn_mask: Tensor | None, key_padding_mask: Tensor | None, heads: int
) -> tuple[Tensor | None, Tensor | None]:
    """Masks of `nn.MultiheadAttention` → (mask, bias), both broadcastable to (B, h, N, M) or None.

    Args:
        attn_mask: (N, M) or (B·h, N, M); boolean with True = not allowed, or float, added.
        key_padding_mask: (B, M), likewise.
    Raises TypeError for a mask that is neither boolean nor floating-point.
    """
    mask: Tensor | None = None
    bias: Tensor | None = None
    for given, name in ((attn_mask, "attn_mask"), (key_padding_mask, "key_padding_mask")):
        if given is None:
            continue
        if name == "key_padding_mask":
            shaped = given[:, None, None]  # (B, 1, 1, M)
        else:
            shaped = given if given.dim() == 2 else given.unflatten(0, (-1, heads))
        if given.dtype == torch.bool:
            mask = both(mask, ~shaped)
        elif given.is_floating_point():
            bias = plus(bias, shaped)
        else:
            raise TypeError(f"{name} must be boolean or floating-point, not {given.dtype}")
    return mask, bias

"""The one face of all kinds of attention.

A kind says how much query n attends to key m before normalisation, κ_nm > 0. Everything else is shared:

    w_nm = κ_nm·exp(bias_nm) / Σ_m' κ_nm'·exp(bias_nm')   over allowed keys,    o_n = Σ_m w_nm v_m

A query that may see no key has weights and output zero. Subclasses give `scores` = log κ, and faster
or other ways to the same output where they have them.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from qdreamer.native import AttentionForm
from qdreamer.worldmodel.attention.decay import decay_bias


class AttentionKernel(nn.Module):
    """Attention on heads; see the module's docstring.

    Args:
        heads: h. width: d of queries and keys.
        noise: strength of the depolarizing channel, in training only (`depolarize`).
    Raises ValueError for a noise outside [0, 1].
    """

    linear = False
    """True when `attend_causal` is linear in N; the kind is a `RecurrentKernel`."""

    compares = True
    """Whether queries are compared with keys, which rotary phases then turn."""

    quantum = False
    """True when the kind's own parameters describe quantum states or channels; costs count them apart."""

    learned_keys = True
    """Whether the projection that makes keys learns; the block of attention sees to it."""

    def __init__(self, heads: int, width: int, noise: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= noise <= 1.0:
            raise ValueError(f"noise={noise} must lie between 0 and 1")
        self.heads, self.width, self.noise = heads, width, noise

    def soften(self) -> None:
        """Start with logits that deviate as softmax's do: a sharp start never learns to look things up."""

    def encode(self, x: Tensor) -> Tensor:
        """Queries or keys as the kind compares them, (…, d) → (…, d): state preparation.

        Encoding twice is encoding once, so a cache may hold encoded keys.
        """
        return x

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        """log κ of encoded queries (B, h, N, d) and keys (B, h, M, d): (B, h, N, M)."""
        raise NotImplementedError(f"{type(self).__name__} has no scores(q, k)")

    def weights(self, q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """Exact weights (B, h, N, M), without noise or dropout: for looking inside."""
        return masked_softmax(self.scores(self.encode(q), self.encode(k)), mask, bias)

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """(B, h, N, d), (B, h, M, d), (B, h, M, dv) → (B, h, N, dv).

        Args:
            mask: boolean, broadcastable to (B, h, N, M), True = attend; None allows all.
            bias: added to log κ, so that it multiplies κ by exp(bias); same shapes.
            dropout: probability that a weight is dropped, the others scaled up.
            generator: for kinds that draw (`sampled`).
        """
        out = self._attend(q, k, v, mask, bias, dropout)
        if out is None:
            return self.applied_weights(q, k, mask, bias, dropout, generator) @ v
        if self.training and self.noise:
            out = depolarize(out, mask, bias, self.noise, v)
        return out

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bias: Tensor | None, dropout: float
    ) -> Tensor | None:
        """`attend` without noise, in kinds that have a faster way to it than by `applied_weights`."""
        return None

    def applied_weights(
        self,
        q: Tensor,
        k: Tensor,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The weights (B, h, N, M) that `attend` multiplies the values with: drawn, dropped, with noise."""
        weights = F.dropout(self.estimate(self.weights(q, k, mask, bias), generator), dropout)
        if self.training and self.noise:
            weights = depolarize(weights, mask, bias, self.noise)
        return weights

    def estimate(self, weights: Tensor, generator: torch.Generator | None) -> Tensor:
        """Exact weights → those that are used instead; see `sampled.py`."""
        return weights

    def head_numbers(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """Return what is worth logging of each head, (h,) each; arguments as of `attend`."""
        return {}

    def native_form(self, learning: bool) -> AttentionForm | None:
        """Return the closed form in which kernels in C can compute the weights, or None.

        While `learning` a kind is computed with its noise and its draws, which have none.
        """
        return None

    def attend_causal(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        segments: Tensor | None = None,
        valid: Tensor | None = None,
        log_decay: Tensor | None = None,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Each of N steps attends to itself and the steps before it: (B, h, N, ·) → (B, h, N, dv).

        Args:
            segments: (B, N) episode numbers (`segment_ids`); nothing crosses their boundaries.
            valid: (B, N) boolean, False for keys that nobody may see.
            log_decay: (B, h, N) logarithms of the gates γ_t; see `decay.py`.
        """
        mask = causal(q.shape[-2], q.device) if segments is None else segment_causal(segments)
        if valid is not None:
            mask = mask & valid[:, None, None]
        bias = None if log_decay is None else decay_bias(log_decay, segments)
        return self.attend(q, k, v, mask, bias, dropout, generator)

    def attend_encoded(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        """`attend` for queries and keys that are encoded already; exact, without noise or dropout.

        Every query must see some key.
        """
        return masked_softmax(self.scores(q, k), None, bias) @ v


class RecurrentKernel(AttentionKernel):
    """A kind that sums its past up in a state of constant size, any tensor (B, h, …).

    Arguments that its methods share: log_decay (B, h, N), log γ; segments (B, N), episode numbers, 0 for the
    episode that `state` belongs to.
    """

    linear = True

    def initial(self, batch: int, values: int, like: Tensor) -> Tensor:
        """Return the state of no past, for values of so many features, with the type of `like`."""
        raise NotImplementedError

    def attend_causal(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        segments: Tensor | None = None,
        valid: Tensor | None = None,
        log_decay: Tensor | None = None,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
        state: Tensor | None = None,
    ) -> Tensor:
        """As every kind's; `state` is what went before, and episode 0 continues it.

        This one looks at all pairs. Raises ValueError for a state, which has none.
        """
        if state is not None:
            raise ValueError("dropout and measured overlaps need all pairs: leave out `state`")
        return super().attend_causal(q, k, v, segments, valid, log_decay, dropout, generator)

    def recall(
        self,
        q: Tensor,
        asking: Tensor,
        k: Tensor,
        v: Tensor,
        segments: Tensor,
        log_decay: Tensor | None = None,
        state: Tensor | None = None,
    ) -> Tensor:
        """`attend_causal` for the last T of N steps, then for queries that see the steps before theirs only.

        q, k, v (B, h, N, ·), asking (B, h, T, d) → (B, h, 2·T, dv).
        """
        raise NotImplementedError

    def step(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        state: Tensor,
        log_decay: Tensor | None = None,
        is_first: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """One step: (B, h, ·) each, log γ (B, h), is_first (B) → output (B, h, dv), new state."""
        raise NotImplementedError

    def read(self, q: Tensor, state: Tensor) -> Tensor:
        """Return what queries (B, h, d) find in a state: outputs (B, h, dv)."""
        raise NotImplementedError

    def state_at(
        self,
        k: Tensor,
        v: Tensor,
        b: Tensor,
        t: Tensor,
        segments: Tensor | None = None,
        log_decay: Tensor | None = None,
        state: Tensor | None = None,
        first: int = 0,
    ) -> Tensor:
        """Return the states after steps t (n,) of rows b (n,), (n, h, …); no t is less than `first`."""
        raise NotImplementedError


def masked_softmax(scores: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """Softmax over the allowed keys; zeros where none is. Shapes as in `AttentionKernel.attend`."""
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    fully_masked = (scores == -torch.inf).all(-1, keepdim=True)
    return torch.softmax(scores.masked_fill(fully_masked, 0.0), -1).masked_fill(fully_masked, 0.0)


def segment_ids(is_first: Tensor) -> Tensor:
    """is_first (B, T) → the number of the episode that each step belongs to, (B, T) int64.

    Steps before the first reset have number 0: they continue whatever came before.
    """
    return (is_first > 0.5).long().cumsum(-1)


def causal(steps: int, device: torch.device | None = None) -> Tensor:
    """(T, T): key m ≤ query n."""
    return torch.ones(steps, steps, dtype=torch.bool, device=device).tril()


def segment_causal(segments: Tensor) -> Tensor:
    """Segment ids (B, …, T) → (B, 1, …, T, T): causal ∧ same episode."""
    return (segments.unsqueeze(-1) == segments.unsqueeze(-2)).tril().unsqueeze(1)


def depolarize(
    out: Tensor, mask: Tensor | None, bias: Tensor | None, strength: float, v: Tensor | None = None
) -> Tensor:
    """Return outputs or weights after the depolarizing channel, a regulariser in closed form.

    Attention measures which key a query finds: the state of that index register over the M allowed keys is
    ρ_n = Σ_m w_nm |m⟩⟨m|. The channel of strength ε (Nielsen & Chuang 2010, eq. 8.102, for dimension M)
    replaces it with the maximally mixed state with probability ε,

        E(ρ) = (1 − ε) ρ + ε 1/M,   so   w'_nm = (1 − ε) w_nm + ε/M,   o'_n = (1 − ε) o_n + ε·mean(allowed v).

    Depolarizing a query's own state instead adds a constant to each overlap before normalisation: that is
    the floor f of `born`. A query that may see no key keeps its output.

    Args:
        out: weights (B, h, N, M), or the outputs (B, h, N, dv) of values v (B, h, M, dv).
        mask, bias: as of `attend`; a bias of −∞ forbids.
        strength: ε.
    """
    keys = out.shape[-1] if v is None else v.shape[-2]
    allowed = out.new_ones(1, keys, dtype=torch.bool) if mask is None else mask
    if bias is not None:
        allowed = allowed & (bias > -torch.inf)
    uniform = allowed.expand(*allowed.shape[:-1], keys).to(out.dtype)  # (…, N or 1, M)
    count = uniform.sum(-1, keepdim=True)
    uniform = uniform / count.clamp(min=1.0)
    mixed = uniform if v is None else uniform @ v
    return out.lerp(mixed.expand_as(out), strength).where(count > 0, out)


SMALLEST = 1e-12
"""Added to |x|²: shorter vectors than 1e-6 fade to zero instead of dividing by it."""


def unit(x: Tensor, length: Tensor | None = None) -> Tensor:
    """x/|x| along the last axis, times `length` (broadcastable to (…, 1)). The zero vector stays zero."""
    return (_Unit.apply if torch.is_grad_enabled() else _Unit.forward)(x, length)[0]


class _Unit(torch.autograd.Function):
    """y = ℓu, u = x/|x|: ∂L/∂x = ℓ(g − u(u·g))/|x|, ∂L/∂ℓ = u·g. Two passes less than autograd takes.

    Returns what only the way back needs as well: u, where y is another, and 1/|x|.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, length: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        inverse = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().add_(SMALLEST).rsqrt_()
        u = x * inverse
        return (u, u.new_empty(0), inverse) if length is None else (u * length, u, inverse)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        y, u, inverse = output
        ctx.mark_non_differentiable(u, inverse)
        ctx.save_for_backward(y if inputs[1] is None else u, inverse, inputs[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, Tensor | None]:
        u, inverse, length = ctx.saved_tensors
        along = (u * grad).sum(-1, keepdim=True)
        grad_length = None if length is None else along.sum_to_size(length.shape)
        scale = inverse if length is None else inverse * length
        return torch.addcmul(grad, u, along, value=-1.0).mul_(scale), grad_length

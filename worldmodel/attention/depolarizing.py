"""The depolarizing channel as a regulariser on attention weights, in closed form.

Attention measures which key a query finds: the state of that index register over the M allowed keys is
ρ_n = Σ_m w_nm |m⟩⟨m|. The depolarizing channel of strength ε (Nielsen & Chuang 2010, eq. 8.102, for
dimension M) replaces it with the maximally mixed state now and then,

    E(ρ) = (1 − ε) ρ + ε 1/M,   so   w'_nm = (1 − ε) w_nm + ε/M,   o'_n = (1 − ε) o_n + ε·mean(allowed v).

Depolarizing a query's own state instead adds a constant to each overlap before normalisation: that is
the floor f of `born` (see `born_encodings.py`).
"""

import torch
from torch import Tensor


def depolarize(out: Tensor, v: Tensor, mask: Tensor | None, strength: float) -> Tensor:
    """Outputs (B, h, N, dv) after the channel, given the values (B, h, M, dv) and who may see them.

    A query that may see no key keeps its output.
    """
    if mask is None:
        return out.lerp(v.mean(-2, keepdim=True).expand_as(out), strength)
    uniform, some = _uniform(mask, v.shape[-2], v.dtype)
    return out.lerp((uniform @ v).expand_as(out), strength).where(some, out)


def depolarize_weights(weights: Tensor, mask: Tensor | None, strength: float) -> Tensor:
    """The same for the weights (B, h, N, M)."""
    if mask is None:
        return weights * (1.0 - strength) + strength / weights.shape[-1]
    uniform, some = _uniform(mask, weights.shape[-1], weights.dtype)
    return weights.lerp(uniform.expand_as(weights), strength).where(some, weights)


def _uniform(mask: Tensor, keys: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Equal weights on the allowed keys, (…, N or 1, M), and whether there are any, (…, N or 1, 1)."""
    allowed = mask.expand(*mask.shape[:-1], keys).to(dtype)
    count = allowed.sum(-1, keepdim=True)
    return allowed / count.clamp(min=1.0), count > 0

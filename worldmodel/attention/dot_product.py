"""Kinds whose log κ is a scaled product of queries and keys: one call of PyTorch's SDPA each."""

import torch
from torch import Tensor
from torch.nn import functional as F

from worldmodel.attention.kind import Kind
from worldmodel.attention.masks import as_bias


class DotProduct(Kind):
    """log κ = scale·q'·k', where `operands` makes q' and k' of queries and keys."""

    scale = 1.0

    def operands(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """What SDPA takes."""
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
    ) -> Tensor:
        plain = segments is None and valid is None and log_decay is None
        if not plain or (self.training and self.noise):
            return super().attend_causal(q, k, v, segments, valid, log_decay, dropout, generator)
        # Told that it is causal, SDPA leaves out half of the products.
        q, k = self.operands(q, k)
        return F.scaled_dot_product_attention(q, k, v, None, dropout, is_causal=True, scale=self.scale)

    def query(self, q: Tensor) -> Tensor:
        """Queries (…, h, 1, d) such that log κ is their product with encoded keys."""
        raise NotImplementedError

    def attend_shared(
        self,
        q: Tensor,
        context_k: Tensor,
        context_v: Tensor,
        context_mask: Tensor | None,
        own_k: Tensor,
        own_v: Tensor,
        own_mask: Tensor | None = None,
    ) -> Tensor:
        plain = context_mask is None or context_mask.dtype != torch.bool
        if not plain or own_mask is not None or not own_k.shape[2] or torch.is_grad_enabled():
            return super().attend_shared(q, context_k, context_v, context_mask, own_k, own_v, own_mask)
        # Every future sees itself: no query is without keys. What follows works in place where it can.
        rows, starts, heads = q.shape[:3]
        query = self.query(q.unsqueeze(-2))  # (B, S, h, 1, d)
        context = query.squeeze(-2).transpose(1, 2) @ context_k.mT  # (B, h, S, T)
        if context_mask is not None:
            context += context_mask
        own = torch.bmm(query.reshape(-1, 1, q.shape[-1]), own_k.flatten(0, 1).mT)  # (B·S·h, 1, i)
        own = own.view(rows, starts, heads, -1).transpose(1, 2)  # (B, h, S, i)
        weights = torch.cat([context, own], -1).softmax(-1)  # (B, h, S, T + i)
        to_context, to_own = weights.split([context.shape[-1], own.shape[-1]], -1)
        out = (to_context @ context_v).transpose(1, 2)  # (B, S, h, dv)
        to_own = to_own.transpose(1, 2).reshape(-1, 1, own.shape[-1])  # (B·S·h, 1, i)
        return torch.bmm(to_own, own_v.flatten(0, 1)).view(out.shape).add_(out)

    def _attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None,
        bias: Tensor | None,
        dropout: float,
        generator: torch.Generator | None,
    ) -> Tensor:
        q, k = self.operands(q, k)
        return F.scaled_dot_product_attention(q, k, v, as_bias(mask, bias), dropout, scale=self.scale)

"""Kinds whose log κ is a scaled product of queries and keys: one call of PyTorch's SDPA each."""

import torch
from torch import Tensor
from torch.nn import functional as F

from qdreamer.worldmodel.attention.kernel import AttentionKernel
from qdreamer.worldmodel.attention.masks import as_bias


class DotProduct(AttentionKernel):
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

    def amplify(self, q: Tensor) -> Tensor:
        """Encoded queries (B, h, N, d) such that log κ is their product with encoded keys."""
        raise NotImplementedError

    def attend_encoded(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.scaled_dot_product_attention(self.amplify(q), k, v, bias, scale=1.0)

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

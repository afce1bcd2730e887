"""`softmax`: exact scaled dot-product attention (Vaswani et al. 2017, eq. 1), κ = exp(q·k/√d).

With it stands `DotProduct`, for every kind whose log κ is a scaled product: one call of PyTorch's SDPA each.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from qdreamer.native import AttentionForm
from qdreamer.worldmodel.attention.config import ATTENTION, AttentionConfig
from qdreamer.worldmodel.attention.kernel import AttentionKernel, as_bias


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


@ATTENTION.register("softmax", AttentionConfig)
class Softmax(DotProduct):
    """The classical kind. It has no noise: the channel belongs to the quantum-inspired kinds."""

    def __init__(self, heads: int, width: int) -> None:
        super().__init__(heads, width)
        self.scale = width**-0.5

    def amplify(self, q: Tensor) -> Tensor:
        return q * self.scale

    def operands(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return q, k

    def native_form(self, learning: bool) -> AttentionForm:
        return AttentionForm(torch.full((self.heads,), self.scale), normalized=False)

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return q @ k.mT * self.scale

"""`softmax`: exact scaled dot-product attention (Vaswani et al. 2017, eq. 1), κ = exp(q·k/√d).

With it stand the control `uniform`, and `DotProduct` for every kind whose log κ is a scaled product: one call
of PyTorch's SDPA each.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from qdreamer.native import AttentionForm
from qdreamer.worldmodel.attention.config import ATTENTION, AttentionConfig
from qdreamer.worldmodel.attention.kernel import AttentionKernel


class DotProduct(AttentionKernel):
    """log κ = scale·q·k of encoded queries and keys."""

    def scale(self) -> float | Tensor:
        """One number, or one for each head (h, 1, 1)."""
        raise NotImplementedError

    def operands(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, float]:
        """What SDPA takes of queries and keys, and the factor that it puts before their products."""
        raise NotImplementedError

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return q @ k.mT * self.scale()

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
        q, k, scale = self.operands(q, k)
        return F.scaled_dot_product_attention(q, k, v, None, dropout, is_causal=True, scale=scale)

    def attend_encoded(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.scaled_dot_product_attention(q * self.scale(), k, v, bias, scale=1.0)

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bias: Tensor | None, dropout: float
    ) -> Tensor:
        q, k, scale = self.operands(q, k)
        if bias is not None:
            mask = bias if mask is None else bias.masked_fill(~mask, -torch.inf)
        return F.scaled_dot_product_attention(q, k, v, mask, dropout, scale=scale)


@ATTENTION.register("softmax", AttentionConfig)
class Softmax(DotProduct):
    """The classical kind. It has no noise: the channel belongs to the quantum-inspired kinds."""

    def __init__(self, heads: int, width: int) -> None:
        super().__init__(heads, width)
        self.factor = width**-0.5

    def scale(self) -> float:
        return self.factor

    def operands(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, float]:
        return q, k, self.factor

    def native_form(self, learning: bool) -> AttentionForm:
        return AttentionForm(torch.full((self.heads,), self.factor), normalized=False)


@ATTENTION.register("uniform", AttentionConfig)
class Uniform(Softmax):
    """`uniform`: κ = 1. All steps that may be seen count alike, whatever is in them.

    A control: if an agent learns as well with it, matching queries and keys was worth nothing.
    """

    def __init__(self, heads: int, width: int) -> None:
        super().__init__(heads, width)
        self.factor = 0.0

    def operands(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, float]:
        return 0.0 * q, k, 1.0  # SDPA's own mask times a factor of 0 would be no number

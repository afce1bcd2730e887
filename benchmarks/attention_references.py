"""Classical references for the attentions, as kinds with the same face; only for comparisons.

`Window` attends to near keys and to the means of far blocks, `Performer` (Choromanski et al. 2021) and
`EluLinear` (Katharopoulos et al. 2020) replace exp(q·k/√d) with products of features, and `Linformer`
(Wang et al. 2020) mixes positions, so that it cannot be causal.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from qdreamer.worldmodel.attention.born import Born
from qdreamer.worldmodel.attention.kernel import AttentionKernel


class EluLinear(Born):
    """κ = (elu(q) + 1)·(elu(k) + 1): linear attention, with all forms of `born`."""

    def __init__(self, heads: int, width: int) -> None:
        super().__init__(heads, width)
        self.encoding = _EluFeatures(width)
        self.overlaps = self.encoding.overlaps

    def encode(self, x: Tensor) -> Tensor:
        return x


class Performer(EluLinear):
    """κ = φ(q)·φ(k), φ(x) = exp(Ωx − |x|²/2)/√m with random orthogonal Ω: E[κ] = exp(q·k/√d)."""

    def __init__(self, heads: int, width: int, features: int = 64) -> None:
        super().__init__(heads, width)
        self.encoding = _RandomFeatures(width, features)
        self.overlaps = self.encoding.overlaps


class _EluFeatures:
    real, floor = False, 0.0

    def __init__(self, width: int) -> None:
        self.size = width

    def overlaps(self, q: Tensor, k: Tensor) -> Tensor:
        return self.features(q) @ self.features(k).mT

    def features(self, x: Tensor) -> Tensor:
        return F.elu(x) + 1.0

    def read(self, features: Tensor, state: Tensor) -> Tensor:
        return features.mT @ state


class _RandomFeatures:
    real, floor = False, 0.0

    def __init__(self, width: int, features: int) -> None:
        self.size = features
        generator = torch.Generator().manual_seed(0)
        blocks = []
        for _ in range(-(-features // width)):
            square = torch.randn(width, width, generator=generator)
            lengths = torch.randn(width, width, generator=generator).norm(dim=-1, keepdim=True)
            blocks.append(torch.linalg.qr(square).Q * lengths)
        self._directions = torch.cat(blocks)[:features]  # (m, d)
        self._scale = width**-0.25

    def overlaps(self, q: Tensor, k: Tensor) -> Tensor:
        return self.features(q.mT).mT @ self.features(k.mT)

    def features(self, x: Tensor) -> Tensor:
        x = x * self._scale
        exponent = self._directions.to(x) @ x - 0.5 * x.square().sum(-2, keepdim=True)
        return exponent.exp() * self.size**-0.5

    def read(self, features: Tensor, state: Tensor) -> Tensor:
        return features.mT @ state


class Window(AttentionKernel):
    """Softmax over the keys of the own and the previous block, and the mean key of each block before.

    A pooled key stands for `block` keys, so log(block) is added to its logit. Causal, without segments.
    """

    def __init__(self, heads: int, width: int, block: int = 64) -> None:
        super().__init__(heads, width)
        self.block = block

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
        if segments is not None or valid is not None or log_decay is not None or dropout:
            raise ValueError("window has neither segments nor padding, decay or dropout")
        length, block = q.shape[-2], self.block
        q, k, v = (F.pad(x, (0, 0, 0, -length % block)).unflatten(-2, (-1, block)) for x in (q, k, v))
        keys, values = (self._visible(x) for x in (k, v))  # (B, h, G, 2C + G, ·)
        bias = self._bias(q.shape[2], q)  # (G, C, 2C + G)
        out = F.scaled_dot_product_attention(
            q.flatten(0, 1), keys.flatten(0, 1), values.flatten(0, 1), bias.unsqueeze(0)
        )
        return out.view_as(v).flatten(2, 3)[:, :, :length]

    def _visible(self, x: Tensor) -> Tensor:
        """[previous block, own block, means of all blocks] for each block."""
        count = x.shape[2]
        previous = F.pad(x, (0, 0, 0, 0, 1, 0))[:, :, :-1]
        means = x.mean(-2).unsqueeze(2).expand(-1, -1, count, -1, -1)
        return torch.cat([previous, x, means], -2)

    def _bias(self, count: int, like: Tensor) -> Tensor:
        block = self.block
        forbidden = like.new_full((count, block, 2 * block + count), -torch.inf)
        forbidden[1:, :, :block] = 0.0
        own = torch.ones(block, block, dtype=torch.bool, device=like.device).tril()
        forbidden[:, :, block : 2 * block].masked_fill_(own, 0.0)
        far = torch.ones(count, count, dtype=torch.bool, device=like.device).tril(-2).unsqueeze(1)
        forbidden[:, :, 2 * block :].masked_fill_(far, torch.tensor(float(block)).log().item())
        return forbidden


class Linformer(AttentionKernel):
    """softmax(q (Ek)ᵀ/√d) Ev with a random projection E of N positions to `rank`. Not causal."""

    def __init__(self, heads: int, width: int, length: int, rank: int = 64) -> None:
        super().__init__(heads, width)
        self.register_buffer("projection", torch.randn(rank, length) * length**-0.5)

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
        if mask is not None or bias is not None:
            raise ValueError("linformer mixes positions: it takes no mask")
        projection: Tensor = self.get_buffer("projection")
        return F.scaled_dot_product_attention(q, projection @ k, projection @ v, dropout_p=dropout)

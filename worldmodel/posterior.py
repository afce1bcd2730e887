"""Posteriors: what the current observation says about the latent z_t.

`coupled`, q(z_t | h_t, o_t), is DreamerV3's: it needs h_t, so it runs inside the time loop.
`decoupled`, q(z_t | o_t), sees the observation alone, so that all times run in parallel: the form
that attention needs, and the fair control for it on the GRU.
"""

import torch
from torch import Tensor, nn

from qdreamer import native
from qdreamer.worldmodel.networks.layers import MLP, Linear, NormSiLU, init_weight


class CoupledPosterior(nn.Module):
    """Logits of q(z | h, o). `prepare` does the embedding's half for all times at once."""

    def __init__(self, deter: int, embed: int, units: int, layers: int, latents: int) -> None:
        super().__init__()
        self.from_embed = Linear(embed, units)
        self.from_deter = nn.Linear(deter, units, bias=False)
        # One layer on [h, embed]: both halves share its fan-in.
        init_weight(self.from_embed.weight, deter + embed)
        init_weight(self.from_deter.weight, deter + embed)
        self.norm = NormSiLU(units)
        self.hidden = MLP(units, units, layers - 1)
        self.out = Linear(units, latents)

    def prepare(self, embed: Tensor) -> Tensor:
        return self.from_embed(embed)  # (B, T, units)

    def forward(self, h: Tensor, prepared: Tensor) -> Tensor:
        return self.out(self.hidden(self.norm(torch.addmm(prepared, h, self.from_deter.weight.t()))))

    def native_weights(self) -> native.PosteriorWeights | None:
        """Return what the kernel of the scan needs; it knows no hidden layers behind the first."""
        if len(self.hidden):
            return None
        return native.PosteriorWeights(
            self.from_deter.weight, self.norm.scale, self.out.weight, self.out.bias
        )


class DecoupledPosterior(nn.Module):
    """Logits of q(z | o) for all times: (B, T, E) → (B, T, S·K)."""

    def __init__(self, embed: int, units: int, layers: int, latents: int) -> None:
        super().__init__()
        self.body = nn.Sequential(MLP(embed, units, layers), Linear(units, latents))

    def forward(self, embed: Tensor) -> Tensor:
        return self.body(embed)

"""Decay: how fast the past fades. For qubits this is damping, for softmax a forget gate.

Between key m and query n ≥ m lies the factor Π_{m<j≤n} γ_j, with a gate γ_t = σ(W x_t + b) per head
and step (as in Lin et al. 2025, Forgetting Transformer, and Yang et al. 2024, GLA). The gate of an
episode's first step never counts, because nothing before it is attended to: resets need no care here.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DecayGate(nn.Linear):
    """x (B, N, E) → log γ (B, h, N).

    W starts at zero and b spreads the heads: their memories last for 4 to 64 steps, log-spaced.
    """

    def __init__(self, width: int, heads: int, dtype: torch.dtype | None = None) -> None:
        super().__init__(width, heads, dtype=dtype)

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        lasting = torch.logspace(2, 6, self.out_features, base=2.0, dtype=self.bias.dtype)
        with torch.no_grad():
            self.bias.copy_(lasting.sub(1.0).log())  # σ(log(τ − 1)) = 1 − 1/τ

    def forward(self, x: Tensor) -> Tensor:
        return F.logsigmoid(super().forward(x)).transpose(-1, -2)


def decay_bias(log_decay: Tensor) -> Tensor:
    """log γ (…, N) → Σ_{m<j≤n} log γ_j as a bias (…, N, N); zero for keys after the query.

    Sums run in float64: their differences are small where they matter.
    """
    total = log_decay.double().cumsum(-1)
    return (total.unsqueeze(-1) - total.unsqueeze(-2)).tril().to(log_decay.dtype)

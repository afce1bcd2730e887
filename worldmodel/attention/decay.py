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

    quantum = True  # a gate is the damping of a qubit: see `AttentionKernel.quantum`

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        lasting = torch.logspace(2, 6, self.out_features, base=2.0, dtype=self.bias.dtype)
        with torch.no_grad():
            self.bias.copy_(lasting.sub(1.0).log())  # σ(log(τ − 1)) = 1 − 1/τ

    def forward(self, x: Tensor) -> Tensor:
        return F.logsigmoid(super().forward(x)).transpose(-1, -2)


def running_total(log_decay: Tensor, segments: Tensor | None = None) -> Tensor:
    """Σ log γ (…, N) over the steps of the same episode up to each, in float64.

    Sums begin anew with every episode (`segments`, broadcastable to log γ): if they went on, differences
    within one would depend in their last bits on what came before it, and their gradients likewise. With
    every pass they reach twice as far back.
    """
    total = log_decay.double()
    if segments is None:
        return total.cumsum(-1)
    reach = 1
    while reach < total.shape[-1]:
        same = segments[..., reach:] == segments[..., :-reach]
        total = torch.cat([total[..., :reach], total[..., reach:] + total[..., :-reach] * same], -1)
        reach *= 2
    return total


def remains(lost: Tensor, dtype: torch.dtype) -> Tensor:
    """exp of a sum of log γ. What is positive, of later steps or other episodes, is left to the masks."""
    return lost.to(dtype).clamp(max=0.0).exp()


def decay_bias(log_decay: Tensor, segments: Tensor | None = None) -> Tensor:
    """log γ (B, h, N) → Σ_{m<j≤n} log γ_j as a bias (B, h, N, N); zero for keys after the query.

    Args:
        segments: (B, N), episode numbers; between episodes the bias means nothing.
    """
    total = running_total(log_decay, None if segments is None else segments.unsqueeze(1))
    return (total.unsqueeze(-1) - total.unsqueeze(-2)).clamp(max=0.0).tril().to(log_decay.dtype)

"""λ-returns and their normalisation (Hafner et al. 2023, eqs. 7 and 11)."""

import torch
from torch import Tensor, nn

from qdreamer.agents.distributed.parallel import ALONE, Ranks


def lambda_return(
    reward: Tensor, discount: Tensor, bootstrap: Tensor, last: Tensor | None, lambda_: float
) -> Tensor:
    """λ-returns of steps 0 … T−2, for sequences of T steps.

    R_t = r_{t+1} + d_{t+1}·((1 − λ_{t+1})·b_{t+1} + λ_{t+1}·R_{t+1}),  R_{T-1} = b_{T-1}

    Args:
        reward: r, (B, T). discount: d, (B, T), 0 at terminal steps. bootstrap: b, (B, T), values.
        last: (B, T) or None; where 1 the recursion stops at the bootstrap (λ_t = 0).
        lambda_: λ.
    Returns:
        (B, T − 1).
    """
    keep = torch.full_like(reward, lambda_) if last is None else lambda_ * (1.0 - last)
    inputs = (reward + (1.0 - keep) * discount * bootstrap).unbind(1)
    weights = (keep * discount).unbind(1)
    returns = bootstrap[:, -1]
    out = []
    for t in range(len(inputs) - 1, 0, -1):
        returns = torch.addcmul(inputs[t], weights[t], returns)
        out.append(returns)
    return torch.stack(out[::-1], 1)


class ReturnNormalizer(nn.Module):
    """max(1, P95 − P5) of the returns, each percentile an exponential moving average.

    Small returns are not blown up to full scale, so sparse rewards do not amplify noise. Percentiles
    are those of all ranks' returns.
    """

    low: Tensor
    high: Tensor

    def __init__(
        self, rate: float, limit: float, percentiles: tuple[float, float], ranks: Ranks = ALONE
    ) -> None:
        super().__init__()
        self._ranks = ranks
        self.rate, self.limit, self.percentiles = rate, limit, percentiles
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    @torch.no_grad()
    def update(self, returns: Tensor) -> Tensor:
        """Take in a batch of returns (any shape) and give the scale, ()."""
        quantiles = torch.tensor(self.percentiles, device=returns.device, dtype=returns.dtype) / 100.0
        (everyone,) = self._ranks.gather(returns.flatten())
        low, high = torch.quantile(everyone, quantiles)
        self.low.lerp_(low, self.rate)
        self.high.lerp_(high, self.rate)
        return (self.high - self.low).clamp(min=self.limit)

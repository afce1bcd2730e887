"""The critic and its slowly moving copy (DreamerV3, eqs. 4–5)."""

import copy

import torch
from torch import Tensor, nn

from qdreamer.worldmodel.networks.heads import TwoHot, TwoHotHead


class Critic(nn.Module):
    """Values as symexp two-hot bins, with an exponential moving average of its own weights.

    The average only regularises: targets are bootstrapped from the online critic.
    """

    def __init__(self, features: int, units: int, layers: int, bins: int, slow_rate: float) -> None:
        super().__init__()
        self.online = TwoHotHead(features, units, layers, bins)
        self.slow = copy.deepcopy(self.online).requires_grad_(False)
        self.slow_rate = slow_rate

    def forward(self, features: Tensor) -> TwoHot:
        return self.online(features)

    def update_slow(self) -> None:
        """slow ← (1 − rate)·slow + rate·online, after every update."""
        ema_update(self.slow, self.online, self.slow_rate)

    def loss(self, output: TwoHot, features: Tensor, target: Tensor, slow_scale: float) -> Tensor:
        """Cross-entropy of `output` = self(features) to the targets (…) and to the slow critic's values."""
        with torch.no_grad():
            slow_target = self.slow(features).pred()
        return output.loss(target, slow_target, scales=(1.0, slow_scale))


@torch.no_grad()
def ema_update(average: nn.Module, module: nn.Module, rate: float) -> None:
    """average ← (1 − rate)·average + rate·module, for all parameters of two modules of one kind."""
    torch._foreach_lerp_(list(average.parameters()), list(module.parameters()), rate)

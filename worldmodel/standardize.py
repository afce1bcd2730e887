"""Standardised observations.

DreamerV3 feeds symlog(o) and pays squared error on it, which leaves small signals almost unseen:
CartPole's angle varies by 0.05, its share of the loss is 0.0025 nats beside a KL of 1. Dividing by
the running deviation first gives every entry the same say; symlog still tames outliers.
"""

import torch
from torch import Tensor, nn


class Standardize(nn.Module):
    """(o − mean)/deviation with running moments, per entry of a vector observation (…, O).

    The moments are exact averages over the first `memory` batches, then exponential averages with
    that memory. Before the first update the map is the identity.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, size: int, memory: int = 1000, floor: float = 1e-3) -> None:
        super().__init__()
        self.memory, self.floor = memory, floor
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("variance", torch.ones(size))
        self.register_buffer("count", torch.zeros(()))

    def forward(self, observation: Tensor) -> Tensor:
        return (observation - self.mean) / self.deviation()

    def invert(self, standardized: Tensor) -> Tensor:
        return standardized * self.deviation() + self.mean

    @torch.no_grad()
    def update(self, observation: Tensor) -> None:
        """Take in a batch (B, T, O)."""
        self.count.add_(1.0)
        rate = (1.0 / self.count).clamp(min=1.0 / self.memory)
        variance, mean = torch.var_mean(observation, (0, 1), correction=0)
        # Moments are merged as deviations from the means (Chan et al.): E[o²] − E[o]² would lose
        # everything to rounding when the mean is large.
        shift = mean - self.mean
        self.variance.lerp_(variance + (1.0 - rate) * shift.square(), rate)
        self.mean.lerp_(mean, rate)

    def deviation(self) -> Tensor:
        """(O,), never under the floor."""
        return self.variance.sqrt().clamp(min=self.floor)


class Unchanged(nn.Module):
    """Stands in for `Standardize` where there is nothing to scale: class indices, or by choice."""

    def forward(self, observation: Tensor) -> Tensor:
        return observation

    def invert(self, prediction: Tensor) -> Tensor:
        return prediction

    def update(self, observation: Tensor) -> None:
        """Nothing to learn."""

    def deviation(self) -> Tensor:
        """The unit of everything."""
        return torch.ones(())

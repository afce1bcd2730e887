"""Entries that are vectors: how they are scaled, encoded and predicted.

DreamerV3 feeds symlog(o) and pays squared error on it. That leaves small signals almost unseen:
CartPole's angle varies by 0.05, its share of the loss is 0.0025 nats beside a KL of 1. So every
entry is divided by its running deviation first. And symlog of the result would press together what
matters most, the rare states near the edge (five deviations become 1.8): so it only sets in at
`LINEAR` deviations, where it keeps outliers from upsetting the training.
"""

import torch
from torch import Tensor

from qdreamer.envs.entries import Vector
from qdreamer.worldmodel.networks.entry import NETWORKS, EntryNetworks, Gather, Normalizer
from qdreamer.worldmodel.networks.heads import symexp, symlog
from qdreamer.worldmodel.networks.layers import MLP, MLPHead

LINEAR = 10.0  # deviations


class Standardize(Normalizer):
    """c·symlog((o − mean)/(c·deviation)) with running moments, per entry of a vector (…, O).

    The moments are exact averages over the first `memory` batches, then exponential averages with
    that memory. Before the first update mean and deviation are 0 and 1.
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
        return LINEAR * symlog((observation - self.mean) / (LINEAR * self.deviation()))

    def invert(self, standardized: Tensor) -> Tensor:
        return symexp(standardized / LINEAR) * (LINEAR * self.deviation()) + self.mean

    @torch.no_grad()
    def update(self, observation: Tensor, gather: Gather) -> None:
        """Take in a batch (B, T, O)."""
        observation = gather(observation)
        self.count.add_(1.0)
        rate = (1.0 / self.count).clamp(min=1.0 / self.memory)
        variance, mean = torch.var_mean(observation, (0, 1), correction=0)
        # Moments are merged as deviations from the means (Chan et al.): E[o²] − E[o]² would lose
        # everything to rounding when the mean is large.
        shift = mean - self.mean
        self.variance.lerp_(variance + (1.0 - rate) * shift.square(), rate)
        self.mean.lerp_(mean, rate)

    def deviation(self) -> Tensor:
        """Return the deviations (O,), never under the floor."""
        return self.variance.sqrt().clamp(min=self.floor)


class Symlog(Normalizer):
    """The paper's map, without moments: symlog(o)."""

    def forward(self, observation: Tensor) -> Tensor:
        return symlog(observation)

    def invert(self, prediction: Tensor) -> Tensor:
        return symexp(prediction)


class VectorEncoder(MLP):
    """An MLP on scaled observations (B, T, O) → embeddings (B, T, E)."""

    def __init__(self, size: int, units: int, layers: int) -> None:
        super().__init__(size, units, layers, bias_std=2.0)


class MeanSquare:
    """Squared error, summed over the last axis. Vectors come scaled (DreamerV3, eq. 8)."""

    def __init__(self, mean: Tensor) -> None:
        self.mean = mean  # (…, O)

    def pred(self) -> Tensor:
        return self.mean

    def loss(self, target: Tensor) -> Tensor:
        return (self.mean - target).square().sum(-1)


class VectorHead(MLPHead):
    """Features (…, F) → a scaled vector observation (…, O)."""

    def forward(self, features: Tensor) -> MeanSquare:
        return MeanSquare(super().forward(features))


NETWORKS[Vector] = EntryNetworks(
    normalizer=lambda spec, config: Standardize(spec.size) if config.standardize else Symlog(),
    encoder=lambda spec, config: VectorEncoder(spec.size, config.units, config.encoder_layers),
    decoder=lambda spec, config, features: VectorHead(
        features, config.units, config.decoder_layers, spec.size
    ),
)

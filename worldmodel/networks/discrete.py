"""Entries of variables that are each one of some classes: how they are encoded and predicted."""

from collections.abc import Sequence

import torch
from torch import Tensor

from qdreamer.envs.entries import Categorical
from qdreamer.worldmodel.networks.entry import NETWORKS, EntryNetworks, Normalizer
from qdreamer.worldmodel.networks.layers import MLP, MLPHead


class OneHots(Normalizer):
    """The normalizer of class numbers (…, k): one-hot vectors, one after the other (…, Σ sizes)."""

    begin: Tensor

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        ends = torch.tensor(sizes).cumsum(0)
        self.total = sum(sizes)
        self.register_buffer("begin", ends - torch.tensor(sizes), persistent=False)

    def forward(self, observation: Tensor) -> Tensor:
        hot = self.one.new_zeros(*observation.shape[:-1], self.total)
        return hot.scatter_(-1, observation.long() + self.begin, 1.0)

    def target(self, observation: Tensor) -> Tensor:
        return self(observation)


class Classes:
    """A categorical for each variable; targets are one-hot vectors (…, Σ sizes)."""

    def __init__(self, logits: Tensor, sizes: Sequence[int]) -> None:
        self.logits = logits.split(list(sizes), -1)  # of each variable

    def pred(self) -> Tensor:
        return torch.cat([torch.softmax(logits, -1) for logits in self.logits], -1)

    def loss(self, target: Tensor) -> Tensor:
        log_probs = torch.cat([torch.log_softmax(logits, -1) for logits in self.logits], -1)
        return -(log_probs * target).sum(-1)


class ClassesHead(MLPHead):
    """Features (…, F) → a categorical for each variable."""

    def __init__(self, features: int, units: int, layers: int, sizes: Sequence[int]) -> None:
        super().__init__(features, units, layers, sum(sizes))
        self.sizes = sizes

    def forward(self, features: Tensor) -> Classes:
        return Classes(super().forward(features), self.sizes)


NETWORKS[Categorical] = EntryNetworks(
    normalizer=lambda spec, config: OneHots(spec.sizes),
    encoder=lambda spec, config: MLP(sum(spec.sizes), config.units, config.encoder_layers),
    decoder=lambda spec, config, features: ClassesHead(
        features, config.units, config.decoder_layers, spec.sizes
    ),
)

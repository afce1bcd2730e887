"""Entries of zeros and ones (bits, bags of words, masks of actions): how they are encoded and predicted."""

import torch
from torch import Tensor
from torch.nn import functional as F

from qdreamer.envs.entries import Binary, Mask, Text
from qdreamer.worldmodel.networks.entry import NETWORKS, EntryNetworks, Normalizer
from qdreamer.worldmodel.networks.layers import MLPHead
from qdreamer.worldmodel.networks.vector import VectorEncoder


class Bits:
    """Independent probabilities, summed over the last axis; targets in [0, 1]."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits  # (…, n)

    def pred(self) -> Tensor:
        return torch.sigmoid(self.logits)

    def loss(self, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(self.logits, target, reduction="none").sum(-1)


class BitsHead(MLPHead):
    """Features (…, F) → a probability for each of n bits."""

    def forward(self, features: Tensor) -> Bits:
        return Bits(super().forward(features))


BITS = EntryNetworks(
    normalizer=lambda spec, config: Normalizer(),
    encoder=lambda spec, config: VectorEncoder(spec.size, config.units, config.encoder_layers),
    decoder=lambda spec, config, features: BitsHead(features, config.units, config.decoder_layers, spec.size),
)
NETWORKS[Binary] = NETWORKS[Text] = BITS
NETWORKS[Mask] = BITS._replace(
    encoder=lambda spec, config: BITS.encoder(spec, config) if spec.observed else None
)

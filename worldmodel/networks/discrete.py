"""Observations that are one of n classes: how they are encoded and predicted."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qdreamer.worldmodel.networks.layers import MLP, MLPHead


class Unchanged(nn.Module):
    """The normalizer of class indices: there is nothing to scale."""

    def forward(self, observation: Tensor) -> Tensor:
        return observation

    def invert(self, prediction: Tensor) -> Tensor:
        return prediction

    def update(self, observation: Tensor) -> None:
        """Learn nothing."""

    def deviation(self) -> Tensor:
        """Return 1, the unit of everything."""
        return torch.ones(())


class DiscreteEncoder(nn.Module):
    """Class indices (B, T) → one-hot, then an MLP → embeddings (B, T, E)."""

    def __init__(self, classes: int, units: int, layers: int) -> None:
        super().__init__()
        self.classes = classes
        self.body = MLP(classes, units, layers)

    def forward(self, observation: Tensor) -> Tensor:
        dtype = next(self.parameters()).dtype
        return self.body(F.one_hot(observation.long(), self.classes).to(dtype))


class OneHot:
    """A categorical over n classes; targets are class indices."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits  # (…, n)

    def pred(self) -> Tensor:
        return torch.softmax(self.logits, -1)

    def loss(self, target: Tensor) -> Tensor:
        log_probs = torch.log_softmax(self.logits, -1)
        return -log_probs.gather(-1, target.long().unsqueeze(-1)).squeeze(-1)


class DiscreteHead(MLPHead):
    """Features (…, F) → a categorical over n observation classes."""

    def forward(self, features: Tensor) -> OneHot:
        return OneHot(super().forward(features))

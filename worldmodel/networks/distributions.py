"""Output distributions with one face: `pred()` (what to expect) and `loss(target)` (…) in nats."""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F


class Output(Protocol):
    """What a head predicts."""

    def pred(self) -> Tensor: ...

    def loss(self, target: Tensor) -> Tensor: ...


class MeanSquare:
    """Squared error, summed over the last axis. Vectors come scaled (Hafner et al. 2023, eq. 10)."""

    def __init__(self, mean: Tensor) -> None:
        self.mean = mean  # (…, O)

    def pred(self) -> Tensor:
        return self.mean

    def loss(self, target: Tensor) -> Tensor:
        return (self.mean - target).square().sum(-1)


class OneHot:
    """A categorical over n classes; targets are class indices."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits  # (…, n)

    def pred(self) -> Tensor:
        return torch.softmax(self.logits, -1)

    def loss(self, target: Tensor) -> Tensor:
        log_probs = torch.log_softmax(self.logits, -1)
        return -log_probs.gather(-1, target.long().unsqueeze(-1)).squeeze(-1)


class Bernoulli:
    """A probability; targets in [0, 1] may be soft (here 1 − 1/horizon)."""

    def __init__(self, logit: Tensor) -> None:
        self.logit = logit  # (…)

    def pred(self) -> Tensor:
        return torch.sigmoid(self.logit)

    def loss(self, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(self.logit, target, reduction="none")

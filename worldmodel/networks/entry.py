"""What the world model has for each kind of entry of an observation; a file for each kind registers it here.

Three parts make an entry's networks. Scaled observations are what its encoder sees and its decoder predicts:

* a normalizer, raw (B, T, *spec.shape) → scaled, which learns its scale from replayed batches;
* an encoder, scaled → embeddings (B, T, width), or None for an entry that is only predicted;
* a decoder, features (…, F) → a distribution over scaled observations, with `pred()` and `loss(target)` (…).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from qdreamer.envs.entries import Spec

Gather = Callable[[Tensor], Tensor]
"""Return the rows of all ranks for those of this one."""


class Normalizer(nn.Module):
    """The normalizer of what needs no scale: it only becomes numbers of the model's type."""

    one: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("one", torch.ones(()), persistent=False)

    def forward(self, observation: Tensor) -> Tensor:
        """Return scaled observations."""
        return observation.to(self.one.dtype)

    def target(self, observation: Tensor) -> Tensor:
        """Return what predictions are compared with, numbers (…, ·) in units that a reader knows."""
        return observation.to(self.one.dtype)

    def invert(self, prediction: Tensor) -> Tensor:
        """Return a decoder's predictions (…, ·) in these units."""
        return prediction

    def deviation(self) -> Tensor:
        """Return deviations in these units, of each number or of all."""
        return self.one

    def update(self, observation: Tensor, gather: Gather) -> None:
        """Learn from a batch (B, T, ·) of this rank's rows."""


class EntryNetworks(NamedTuple):
    """Makers of the parts; `config` is the world model's."""

    normalizer: Callable[[Any, Any], Normalizer]  # spec, config
    encoder: Callable[[Any, Any], Any]  # spec, config → a module with a `width`, or None
    decoder: Callable[[Any, Any, int], nn.Module]  # spec, config, F
    scale: Callable[[Any], float] = lambda config: 1.0  # of the entry's loss, beside other entries'


NETWORKS: dict[type[Spec], EntryNetworks] = {}

"""`hashed`, a control: every weight is one of a few parameters, up to its sign (Chen et al. 2015)."""

import torch
from torch import Tensor, nn

from qdreamer.configs.schema import settings
from qdreamer.worldmodel.weights.generator import WEIGHTS, FixedDraws, SizedConfig


@settings
class HashedConfig(SizedConfig):
    """The number of parameters is all."""


@WEIGHTS.register("hashed", HashedConfig)
class Hashed(FixedDraws):
    """w_i = ±d_h(i) with d (P,) trainable, hash and signs drawn once."""

    places: Tensor
    signs: Tensor

    def __init__(self, count: int, parameters: int) -> None:
        super().__init__(count)
        self.values = nn.Parameter(torch.randn(parameters))
        self.drawn()

    def draw(self, generator: torch.Generator) -> None:
        # A permutation's remainders: every parameter serves as many weights as the others, up to one.
        places = torch.randperm(self.count, generator=generator) % len(self.values)
        signs = 2.0 * torch.randint(2, (self.count,), generator=generator) - 1.0
        self.register_buffer("places", places, persistent=False)
        self.register_buffer("signs", signs, persistent=False)

    def forward(self) -> Tensor:
        return self.signs * self.values[self.places]

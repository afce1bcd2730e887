"""`low_rank`, a control: all weights, as one nearly square matrix, are a product of two narrow ones."""

import math

import torch
from torch import Tensor, nn

from qdreamer.configs.schema import settings
from qdreamer.worldmodel.weights.generator import WEIGHTS, SizedConfig, WeightGenerator


@settings
class LowRankConfig(SizedConfig):
    """The rank follows from the number of parameters."""


@WEIGHTS.register("low_rank", LowRankConfig)
class LowRank(WeightGenerator):
    """w = vec(U V)/√r with U (a, r), V (r, b), a·b ≥ M, and the largest r with r·(a + b) ≤ P.

    Raises ValueError when not even r = 1 has so few parameters.
    """

    def __init__(self, count: int, parameters: int) -> None:
        super().__init__(count)
        height = math.isqrt(count - 1) + 1
        width = -(-count // height)
        rank = parameters // (height + width)
        if rank < 1:
            raise ValueError(
                f"{count} weights of rank 1 take {height + width} parameters: "
                f"weights.parameters={parameters} must be at least that"
            )
        self.left = nn.Parameter(torch.randn(height, rank))
        self.right = nn.Parameter(torch.randn(rank, width) / rank**0.5)

    def forward(self) -> Tensor:
        return (self.left @ self.right).flatten()[: self.count]

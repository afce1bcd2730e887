"""`projection`, a control: fixed random combinations of a few parameters (Li et al., arXiv:1804.08838)."""

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from qdreamer.configs.schema import Int, settings
from qdreamer.worldmodel.weights.generator import WEIGHTS, FixedDraws, SizedConfig


@settings
class ProjectionConfig(SizedConfig):
    nonzeros: Int | None = Field(ge=1, default=None)  # parameters in a weight; null: all

    def __post_init__(self) -> None:
        if self.nonzeros is not None and self.nonzeros >= self.parameters:
            raise ValueError(
                f"weights.nonzeros={self.nonzeros} must be less than weights.parameters={self.parameters}, "
                "or null"
            )


@WEIGHTS.register("projection", ProjectionConfig)
class Projection(FixedDraws):
    """w = A·d/√k with d (P,) trainable and A (M, P) drawn once: normal, or ±1 at k places of each row."""

    matrix: Tensor
    places: Tensor

    def __init__(self, count: int, parameters: int, nonzeros: int | None = None) -> None:
        super().__init__(count)
        self.values = nn.Parameter(torch.randn(parameters))
        self.nonzeros = None if nonzeros is None or nonzeros >= parameters else nonzeros
        self.drawn()

    def draw(self, generator: torch.Generator) -> None:
        size = len(self.values)
        if self.nonzeros is None:
            matrix = torch.randn(self.count, size, generator=generator) / size**0.5
        else:
            shape = self.count, self.nonzeros
            places = torch.randint(size, shape, generator=generator)
            matrix = (2.0 * torch.randint(2, shape, generator=generator) - 1.0) / self.nonzeros**0.5
            self.register_buffer("places", places, persistent=False)
        self.register_buffer("matrix", matrix, persistent=False)

    def forward(self) -> Tensor:
        if self.nonzeros is None:
            return self.matrix @ self.values
        bags = F.embedding_bag(
            self.places, self.values.unsqueeze(-1), mode="sum", per_sample_weights=self.matrix
        )
        return bags.squeeze(-1)

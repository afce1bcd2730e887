"""`sampled`: measurement of softmax attention with S draws (quantum-inspired).

The weights of `softmax` are the outcome probabilities of an index register; instead of their mean the
values at S measured keys are averaged. An estimator study, not a speed-up: every strategy computes all
products of queries and keys. Strategies and their gradient: `draws.py`.
"""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from qdreamer.configs.schema import LONGEST, Float, Int, settings
from qdreamer.native import AttentionForm
from qdreamer.worldmodel.attention.config import ATTENTION, ScheduledConfig
from qdreamer.worldmodel.attention.draws import (
    READS,
    STRATEGIES,
    Budget,
    Name,
    predicted_error,
    relative_error,
)
from qdreamer.worldmodel.attention.kernel import AttentionKernel


@settings
class SampledConfig(ScheduledConfig):
    strategy: Name
    draws: Int = Field(ge=1, le=LONGEST)  # S, keys looked at per query
    top: Int = Field(ge=0, le=LONGEST)  # of them the largest, for topk_rest
    error: Float = Field(gt=0.0)  # wanted relative error, for adaptive

    def arguments(self, quantum: Any) -> dict[str, Any]:
        names = "strategy", "draws", *READS.get(self.strategy, ())
        return {name: getattr(self, name) for name in names}


@ATTENTION.register("sampled", SampledConfig)
class Sampled(AttentionKernel):
    """See the module's docstring. Exact inside `weights` and `attend_encoded`.

    Args:
        strategy: one of `draws.STRATEGIES`. draws, top, error: see `draws.Budget`; top is half of the draws
            unless given.
    Raises ValueError for another strategy or a wrong budget.
    """

    def __init__(
        self,
        heads: int,
        width: int,
        strategy: str = "topk_rest",
        draws: int = 32,
        top: int | None = None,
        error: float = 0.2,
    ) -> None:
        super().__init__(heads, width)
        if strategy not in STRATEGIES:
            raise ValueError(f"strategy={strategy!r} is unknown: choose one of {', '.join(STRATEGIES)}")
        self.strategy = STRATEGIES[strategy]
        self.budget = Budget(draws, draws // 2 if top is None else top, error)

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return q @ k.mT * self.width**-0.5

    @torch.no_grad()
    def head_numbers(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        p = self.weights(q, k, mask)
        weights, draws = self.strategy(p, self.budget, None)
        numbers = {
            "error": relative_error(weights @ v, p @ v),
            "predicted_error": predicted_error(p, draws),
            "draws": draws.to(p.dtype),
        }
        return {name: each.mean((0, 2)) for name, each in numbers.items()}  # of B, h, N

    def native_form(self, learning: bool) -> AttentionForm | None:
        scale = torch.full((self.heads,), self.width**-0.5)
        return None if learning else AttentionForm(scale, normalized=False)

    def estimate(self, weights: Tensor, generator: torch.Generator | None) -> Tensor:
        return self.strategy(weights, self.budget, generator).weights

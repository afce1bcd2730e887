"""`sampled`: measurement of softmax attention with S draws (quantum-inspired).

The weights of `softmax` are the outcome probabilities of an index register; instead of their mean the
values at S measured keys are averaged. An estimator study, not a speed-up: every strategy computes all
products of queries and keys. Strategies and their gradient: `draws.py`.
"""

from typing import Annotated, Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from qdreamer.configs.schema import Float, Int, one_of, settings
from qdreamer.native import AttentionForm
from qdreamer.worldmodel.attention.config import ATTENTION, ScheduledConfig
from qdreamer.worldmodel.attention.draws import (
    STRATEGIES,
    Budget,
    effective_keys,
    predicted_error,
    relative_error,
)
from qdreamer.worldmodel.attention.kernel import AttentionKernel


class Measurement(NamedTuple):
    """For logging; N queries."""

    output: Tensor  # (B, h, N, dv)
    draws: Tensor  # (B, h, N): S
    effective: Tensor  # (B, h, N): N_eff
    predicted: Tensor  # (B, h, N): √((N_eff − 1)/S)


@settings
class SampledConfig(ScheduledConfig):
    strategy: Annotated[str, one_of(lambda: STRATEGIES)]
    draws: Int = Field(ge=1)  # S, keys looked at per query
    top: Int = Field(ge=0)  # of them the largest, for topk_rest
    error: Float = Field(gt=0.0)  # wanted relative error, for adaptive

    def arguments(self, quantum: Any) -> dict[str, Any]:
        return {"strategy": self.strategy, "draws": self.draws, "top": self.top, "error": self.error}


@ATTENTION.register("sampled", SampledConfig)
class Sampled(AttentionKernel):
    """See the module's docstring. Exact inside `weights` and `attend_encoded`.

    Args:
        strategy: one of `draws.STRATEGIES`. draws, top, error: see `draws.Budget`.
    Raises ValueError for another strategy or a wrong budget.
    """

    def __init__(
        self,
        heads: int,
        width: int,
        strategy: str = "topk_rest",
        draws: int = 32,
        top: int = 16,
        error: float = 0.2,
    ) -> None:
        super().__init__(heads, width)
        if strategy not in STRATEGIES:
            raise ValueError(f"strategy={strategy!r} is unknown: choose one of {', '.join(STRATEGIES)}")
        self.strategy = STRATEGIES[strategy]
        self.budget = Budget(draws, top, error)

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return q @ k.mT * self.width**-0.5

    def head_numbers(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        measured = self.measure(q, k, v, mask)
        error = relative_error(measured.output, self.weights(q, k, mask) @ v)
        return {
            "error": error.mean((0, 2)),
            "predicted_error": measured.predicted.mean((0, 2)),
            "draws": measured.draws.to(error.dtype).mean((0, 2)),
        }

    def native_form(self, learning: bool) -> AttentionForm | None:
        return (
            None if learning else AttentionForm(torch.full((self.heads,), self.width**-0.5), normalized=False)
        )

    def estimate(self, weights: Tensor, generator: torch.Generator | None) -> Tensor:
        return self.strategy(weights, self.budget, generator).weights

    @torch.no_grad()
    def measure(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Measurement:
        """`attend` with S and the predicted error of each query; `draws.relative_error` has the true one."""
        p = self.weights(q, k, mask, bias)
        weights, draws = self.strategy(p, self.budget, generator)
        return Measurement(weights @ v, draws, effective_keys(p), predicted_error(p, draws))

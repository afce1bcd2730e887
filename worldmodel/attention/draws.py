"""Estimates of attention weights from few keys: strategies of measuring the index register.

Measuring Σ_m √p_m |m⟩ gives key m with probability p_m. A strategy turns exact weights p (…, N, M) into
estimates w that are zero for most keys. All but `control` draw at random and are unbiased, E[w] = p;
given their uniform numbers, a query's draws depend on its own row of p alone.

Gradient. For drawn weights the derivative ∂w_m is defined as w_m ∂log p_m (the likelihood-ratio or score
function of the draw, Williams 1992), computed as (w_m/p_m)·∂p_m. Since E[w_m] = p_m,

    E[∂w_m] = Σ_draws P(draw) w_m ∂log p_m = p_m ∂log p_m = ∂p_m,

so the gradient of Σ_m w_m v_m is an unbiased estimate of that of the exact output, for any upstream
gradient that does not depend on the same draws. `control` is a function of p and has its own derivative.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Budget:
    """How many keys a query may look at. Raises ValueError unless 1 ≤ top < draws and error > 0."""

    draws: int = 32  # S, the fixed ones included
    top: int = 16  # k, keys of largest weight that are taken for certain; for `topk_rest`
    error: float = 0.2  # predicted relative error that `adaptive` draws for, with at most S draws

    def __post_init__(self) -> None:
        if not 1 <= self.top < self.draws:
            raise ValueError(f"need 1 ≤ top < draws, not top={self.top}, draws={self.draws}")
        if self.error <= 0.0:
            raise ValueError(f"error={self.error} must be positive")


class Estimate(NamedTuple):
    weights: Tensor  # (…, N, M)
    draws: Tensor  # (…, N): S, the keys that were looked at, repetitions included


Strategy = Callable[[Tensor, Budget, torch.Generator | None], Estimate]


def importance(p: Tensor, budget: Budget, generator: torch.Generator | None) -> Estimate:
    """S independent draws, each with weight 1/S."""
    return _drawn(p, _uniforms(p, budget.draws, generator))


def stratified(p: Tensor, budget: Budget, generator: torch.Generator | None) -> Estimate:
    """One draw in each of S equal parts of the distribution function."""
    return _drawn(p, (_uniforms(p, budget.draws, generator) + _steps(p, budget.draws)) / budget.draws)


def systematic(p: Tensor, budget: Budget, generator: torch.Generator | None) -> Estimate:
    """A comb of S teeth, 1/S apart, with one random offset."""
    return _drawn(p, (_uniforms(p, 1, generator) + _steps(p, budget.draws)) / budget.draws)


def adaptive(p: Tensor, budget: Budget, generator: torch.Generator | None) -> Estimate:
    """Independent draws, more of them where the entropy H is larger: ⌈(e^H − 1)/error²⌉, from 1 to S.

    That is the number for which the predicted error √((N_eff − 1)/S) is `error`, with e^H for N_eff.
    """
    wanted = (entropy(p.detach()).exp() - 1.0) / budget.error**2
    draws = wanted.ceil().clamp(1, budget.draws).unsqueeze(-1)  # (…, N, 1)
    u = _uniforms(p, budget.draws, generator)
    return _drawn(p, u, (_steps(p, budget.draws) < draws) / draws)


def topk_rest(p: Tensor, budget: Budget, generator: torch.Generator | None) -> Estimate:
    """The k largest weights as they are, and S − k independent draws from the rest."""
    top = _top(p, budget.top)
    rest = p.detach().masked_fill(top, 0.0)
    count = budget.draws - budget.top
    each = rest.sum(-1, keepdim=True) / count
    drawn = _drawn(p, _uniforms(p, count, generator), each, rest)
    return Estimate(p * top + drawn.weights, drawn.draws + budget.top)


def control(p: Tensor, budget: Budget, generator: torch.Generator | None) -> Estimate:
    """The S largest weights as they are; all other allowed keys share the rest alike.

    Deterministic, and biased by Σ_rest (p_m − p̄) v_m. It is the control variate Σ_rest p̄ v_m, whose sum
    is known exactly, without the sampled correction.
    """
    top = _top(p, budget.draws)
    rest = (p > 0) & ~top
    mass = (p * rest).sum(-1, keepdim=True)
    shared = mass / rest.sum(-1, keepdim=True).clamp(min=1)
    return Estimate(torch.where(top, p, rest * shared), top.sum(-1))


Name = Literal["importance", "stratified", "systematic", "adaptive", "topk_rest", "control"]
STRATEGIES: dict[str, Strategy] = {
    strategy.__name__: strategy
    for strategy in (importance, stratified, systematic, adaptive, topk_rest, control)
}

READS = {"topk_rest": ("top",), "adaptive": ("error",)}
"""What a strategy looks at in the budget beside its draws."""


def entropy(p: Tensor) -> Tensor:
    """−Σ p log p in nats, (…, N): 0 for one key, log M for all alike."""
    return torch.special.entr(p).sum(-1)


def effective_keys(p: Tensor) -> Tensor:
    """N_eff = 1/Σp², (…, N): the inverse participation ratio; 0 where no key is allowed."""
    squares = p.square().sum(-1)
    return torch.where(squares > 0, 1.0 / squares, 0.0)


def predicted_error(p: Tensor, draws: Tensor) -> Tensor:
    """√((N_eff − 1)/S), (…, N): of S independent draws, if the values are independent and centred."""
    return ((effective_keys(p) - 1.0).clamp(min=0.0) / draws).sqrt()


def relative_error(estimate: Tensor, exact: Tensor) -> Tensor:
    """|ô − o|/|o| of each query, (…, N): for logging beside the predicted one."""
    return (estimate - exact).norm(dim=-1) / exact.norm(dim=-1)


def _uniforms(p: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    return torch.rand(*p.shape[:-1], count, generator=generator, dtype=p.dtype, device=p.device)


def _steps(p: Tensor, count: int) -> Tensor:
    return torch.arange(count, dtype=p.dtype, device=p.device)


def _drawn(p: Tensor, u: Tensor, value: Tensor | None = None, among: Tensor | None = None) -> Estimate:
    """Keys at the quantiles u (…, N, S) of `among` (p itself by default), each with weight `value` (1/S)."""
    with torch.no_grad():
        cdf = (p if among is None else among).cumsum(-1)
        total = cdf[..., -1:].contiguous()
        # Rounding may lead past the last key with p > 0, which is where the total is first reached.
        index = torch.searchsorted(cdf, u * total, right=True).minimum(torch.searchsorted(cdf, total))
        value = torch.full_like(u, 1.0 / u.shape[-1]) if value is None else value.expand_as(u)
        value = value * (total > 0)
        weights = torch.zeros_like(p).scatter_add_(-1, index, value)
        ratio = torch.where(weights > 0, weights / p, 0.0)
    return Estimate(ratio * p, (value > 0).sum(-1))


def _top(p: Tensor, count: int) -> Tensor:
    """Where the `count` largest of each row are, (…, N, M) boolean."""
    index = p.detach().topk(min(count, p.shape[-1]), -1).indices
    return torch.zeros_like(p, dtype=torch.bool).scatter_(-1, index, True)

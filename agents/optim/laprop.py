"""LaProp (Ziyin et al. 2020), the optimizer of DreamerV3.

    v ← β₂v + (1 − β₂)g²;   m ← β₁m + (1 − β₁)·g/(√v̂ + ε);   θ ← θ − lr·m̂

Unlike Adam, the gradient is normalised before the momentum, which stays stable at ε = 1e-20.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any, Self

import torch
from pydantic import Field
from torch import Tensor

from qdreamer import native
from qdreamer.agents.dreamer import Dreamer
from qdreamer.agents.optim.named_groups import Groups, split
from qdreamer.agents.optim.optimizer import OPTIMIZERS, AgentOptimizer, Landscape, OptimizerConfig
from qdreamer.configs.schema import Float, Int, settings


@settings
class LaPropConfig(OptimizerConfig):
    lr: Float = Field(gt=0.0, le=10.0)
    beta1: Float = Field(ge=0.0, lt=1.0)
    beta2: Float = Field(ge=0.0, lt=1.0)
    eps: Float = Field(gt=0.0)
    agc: Float = Field(ge=0.0)  # 0 switches clipping off
    agc_pmin: Float = Field(gt=0.0)
    warmup: Int = Field(ge=0)  # updates
    groups: Groups = Field(default_factory=dict)  # parts with a learning rate or turns of their own


@OPTIMIZERS.register("laprop", LaPropConfig)
class LaProp(AgentOptimizer):
    """LaProp after adaptive gradient clipping, with a linear warm-up of the learning rate.

    Args:
        lr: learning rate after warm-up. betas: (β₁ of the momentum, β₂ of the second moment).
        agc: clipping factor, 0 for none. agc_pmin: smallest parameter norm that counts.
        warmup: updates over which lr rises linearly from 0; update t has lr·min(1, t/warmup), t ≥ 1.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 4e-5,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-20,
        agc: float = 0.3,
        agc_pmin: float = 1e-3,
        warmup: int = 1000,
    ) -> None:
        super().__init__(
            params, {"lr": lr, "betas": betas, "eps": eps, "agc": agc, "agc_pmin": agc_pmin, "warmup": warmup}
        )

    @classmethod
    def make(cls, config: LaPropConfig, agent: Dreamer, seed: int = 0, circuits: object = None) -> Self:
        """Make one for all trainable parameters of the agent."""
        return cls.of_groups(config, cls.groups_of(config, agent))

    @staticmethod
    def groups_of(config: LaPropConfig, agent: Dreamer) -> list[dict[str, Any]]:
        """Return all trainable parameters of the agent, by the groups that the settings name."""
        if not config.groups:
            return [{"params": agent.trainable()}]
        own = {name: asdict(group) for name, group in config.groups.items()}
        return [
            {"params": group.parameters, "name": group.name, **_given(own.get(group.name, {}))}
            for group in split(agent, config.groups)
        ]

    @classmethod
    def of_groups(cls, config: LaPropConfig, groups: list[dict[str, Any]]) -> Self:
        """Make one for groups of parameters."""
        betas, agc = (config.beta1, config.beta2), (config.agc, config.agc_pmin)
        return cls(groups, config.lr, betas, config.eps, *agc, config.warmup)

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, closure: Callable[[], float] | None = None, landscape: Landscape | None = None
    ) -> float | None:
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for group in self.param_groups:
            if _its_turn(group):
                self._step_group(group)
        return loss

    def _step_group(self, group: dict[str, Any]) -> None:
        params = [p for p in group["params"] if p.grad is not None]
        if not params:
            return
        grads = [p.grad for p in params]
        beta1, beta2 = group["betas"]
        for p in params:
            if not self.state[p]:
                self.state[p] = {"second": torch.zeros_like(p), "momentum": torch.zeros_like(p)}
        group["updates"] = t = group.get("updates", 0) + 1
        second = [self.state[p]["second"] for p in params]
        momentum = [self.state[p]["momentum"] for p in params]
        warm = min(1.0, t / group["warmup"]) if group["warmup"] else 1.0
        # Bias correction of v enters as a factor of the root, that of m as a factor of the step.
        correction, rate = (1.0 - beta2**t) ** -0.5, group["lr"] * warm / (1.0 - beta1**t)
        native.laprop(
            params, grads, second, momentum, group["agc"], group["agc_pmin"], beta1, beta2, correction,
            group["eps"], rate,
        )  # fmt: skip


def _given(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def _its_turn(group: dict[str, Any]) -> bool:
    """Count an update, and tell whether a group moves at it; one that waits is not touched at all."""
    if group.get("every", 1) == 1:
        return True
    seen = group["seen"] = group.get("seen", -1) + 1
    return bool(seen % group["every"] == group["phase"])

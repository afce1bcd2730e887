"""Typed settings of actor, critic and imagination. Values live in configs/agent."""

from typing import Annotated

from pydantic import Field

from qdreamer.configs.schema import DEEPEST, WIDEST, Float, Int, check_keys, settings

LOSSES = ("policy", "value", "replay_value")
ACTION_KINDS = ("discrete", "continuous")


@settings
class AgentConfig:
    """Actor, critic and imagination (DreamerV3, eqs. 4–7)."""

    name: str
    units: Int = Field(ge=1, le=WIDEST)
    actor_layers: Int = Field(ge=0, le=DEEPEST)
    critic_layers: Int = Field(ge=0, le=DEEPEST)
    imagination_horizon: Int = Field(ge=1, le=1000)  # H
    imagination_starts: Int = Field(ge=2)  # start states per sequence, the last ones
    unimix: Float = Field(ge=0.0, le=0.5)
    entropy: dict[str, Annotated[Float, Field(ge=0.0)]]  # exactly the keys ACTION_KINDS
    min_std: Float = Field(gt=0.0)
    max_std: Float = Field(gt=0.0)
    average_rate: Float = Field(gt=0.0, le=1.0)  # of the actor that is evaluated
    lambda_: Float = Field(ge=0.0, le=1.0)
    slow_rate: Float = Field(gt=0.0, le=1.0)
    slow_scale: Float = Field(ge=0.0)
    return_rate: Float = Field(gt=0.0, le=1.0)
    return_limit: Float = Field(gt=0.0)
    return_percentiles: tuple[Float, Float]
    loss_scales: dict[str, Annotated[Float, Field(ge=0.0)]]  # exactly the keys LOSSES

    def __post_init__(self) -> None:
        check_keys("agent.loss_scales", self.loss_scales, LOSSES)
        check_keys("agent.entropy", self.entropy, ACTION_KINDS)
        low, high = self.return_percentiles
        if not 0.0 <= low < high <= 100.0:
            raise ValueError(f"agent.return_percentiles=[{low}, {high}] must rise from 0 to 100")
        if self.min_std > self.max_std:
            raise ValueError(f"agent.min_std={self.min_std} must not exceed agent.max_std={self.max_std}")

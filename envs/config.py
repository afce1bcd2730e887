"""Typed settings of the environment. Values live in configs/env."""

from typing import Annotated, Any, Literal

from pydantic import Field

from qdreamer.configs.schema import Float, Int, settings


@settings
class EnvConfig:
    """One Gymnasium environment and how it is run."""

    id: str
    kwargs: dict[str, Any]  # passed to gymnasium.make
    num_envs: Int = Field(ge=1)
    vectorization: Literal["sync", "async"]
    max_episode_steps: Int | None = Field(ge=1)  # null: the registered limit
    hide: tuple[Annotated[Int, Field(ge=0)], ...]  # observation entries that the agent cannot see
    steps: Int = Field(ge=1)  # default length of a run
    solved: Float | None  # a mean evaluation return worth marking in the summary

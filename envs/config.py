"""Typed settings of the environment. Values live in configs/env."""

from typing import Annotated, Any, Literal

from pydantic import Field

from qdreamer.configs.schema import ByPath, Float, Int, settings
from qdreamer.envs.entries import LARGEST, SMALLEST, Choice


@settings
class EnvConfig:
    """One Gymnasium environment and how it is run."""

    id: str
    kwargs: dict[str, Any]  # passed to gymnasium.make
    num_envs: Int = Field(ge=1, le=4096)
    vectorization: Literal["sync", "async"]
    max_episode_steps: Int | None = Field(ge=1)  # null: the registered limit
    repeat: Int = Field(ge=1, le=10_000)  # times that each action is taken
    wrappers: tuple[str, ...]  # module:Name each, innermost first; modules of the current folder, too
    entries: ByPath[Choice]  # what entries are taken for
    image_size: Int = Field(ge=SMALLEST, le=LARGEST)  # sides of images that were larger than 96
    hide: tuple[Annotated[Int, Field(ge=0)], ...]  # indices of a vector that the agent cannot see
    steps: Int = Field(ge=1)  # default length of a run
    solved: Float | None  # a mean evaluation return worth marking in the summary

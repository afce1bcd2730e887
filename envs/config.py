"""Typed settings of the environment. Values live in configs/env."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class EnvConfig:
    """One Gymnasium environment and how it is run."""

    id: str
    kwargs: dict[str, Any]  # passed to gymnasium.make
    num_envs: int = field(metadata={"min": 1})
    vectorization: str = field(metadata={"choices": ("sync", "async")})
    max_episode_steps: int | None = field(metadata={"min": 1})  # null: the registered limit
    hide: tuple[int, ...] = field(metadata={"min": 0})  # observation entries that the agent cannot see
    steps: int = field(metadata={"min": 1})  # default length of a run
    solved: float | None  # a mean evaluation return worth marking in the summary

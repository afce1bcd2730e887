"""Typed settings of attention. Values live in configs/attention; only `sequence=transformer` reads them."""

from dataclasses import dataclass, field
from typing import Any

from qdreamer.worldmodel.attention.born import LEAST_FLOOR
from qdreamer.worldmodel.attention.curriculum import RAMPS
from qdreamer.worldmodel.attention.draws import STRATEGIES


@dataclass(frozen=True)
class CurriculumConfig:
    """From softmax to the kind itself: `first` until update `start`, `last` from `length` updates later."""

    start: int = field(metadata={"min": 0})
    length: int = field(metadata={"min": 0})
    ramp: str = field(metadata={"choices": tuple(RAMPS)})
    first: float = field(metadata={"min": 0.0, "max": 1.0})
    last: float = field(metadata={"min": 0.0, "max": 1.0})

    @property
    def used(self) -> bool:
        """Whether softmax takes any part."""
        return self.last < 1.0 or (self.first < 1.0 and self.start + self.length > 0)


@dataclass(frozen=True)
class SoftmaxConfig:
    name: str = field(metadata={"choices": ("softmax", "uniform")})
    heads: int = field(metadata={"min": 1})  # h and d, proposals that `sequence` takes over
    head: int = field(metadata={"min": 2})

    decay = False

    def settings(self) -> dict[str, Any]:
        """Arguments of the kind."""
        return {}


@dataclass(frozen=True)
class CoherentConfig:
    name: str = field(metadata={"choices": ("coherent", "random_keys")})
    heads: int = field(metadata={"min": 1})
    head: int = field(metadata={"min": 2})
    noise: float = field(metadata={"min": 0.0, "max": 1.0})  # depolarizing, in training
    curriculum: CurriculumConfig

    decay = False

    def settings(self) -> dict[str, Any]:
        return {"noise": self.noise}


@dataclass(frozen=True)
class BornConfig:
    name: str = field(metadata={"choices": ("born",)})
    heads: int = field(metadata={"min": 1})
    head: int = field(metadata={"min": 2})
    noise: float = field(metadata={"min": 0.0, "max": 1.0})
    floor: float = field(metadata={"min": LEAST_FLOOR})  # depolarizing, of the queries
    complex: bool  # d/2 complex amplitudes instead of d real ones
    decay: bool  # learned damping: without it the past never fades
    curriculum: CurriculumConfig

    def settings(self) -> dict[str, Any]:
        return {"noise": self.noise, "floor": self.floor, "complex": self.complex}


@dataclass(frozen=True)
class CircuitConfig:
    name: str = field(metadata={"choices": ("circuit",)})
    heads: int = field(metadata={"min": 1})
    head: int = field(metadata={"min": 2})
    noise: float = field(metadata={"min": 0.0, "max": 1.0})
    floor: float = field(metadata={"min": LEAST_FLOOR})
    curriculum: CurriculumConfig

    decay = False

    def __post_init__(self) -> None:
        if self.head & (self.head - 1):
            raise ValueError(f"attention.head={self.head} must be a power of two: circuits load 2, 4, 8, …")

    def settings(self) -> dict[str, Any]:
        return {"noise": self.noise, "floor": self.floor}


@dataclass(frozen=True)
class SampledConfig:
    name: str = field(metadata={"choices": ("sampled",)})
    heads: int = field(metadata={"min": 1})
    head: int = field(metadata={"min": 2})
    strategy: str = field(metadata={"choices": tuple(STRATEGIES)})
    draws: int = field(metadata={"min": 1})  # S, keys looked at per query
    top: int = field(metadata={"min": 0})  # of them the largest, for topk_rest
    error: float = field(metadata={"above": 0.0})  # wanted relative error, for adaptive
    curriculum: CurriculumConfig

    decay = False

    def settings(self) -> dict[str, Any]:
        return {"strategy": self.strategy, "draws": self.draws, "top": self.top, "error": self.error}


AttentionConfig = SoftmaxConfig | CoherentConfig | BornConfig | CircuitConfig | SampledConfig

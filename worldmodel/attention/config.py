"""What every kind of attention is registered with.

Values live in configs/attention; only a sequence model that attends reads them.
"""

import inspect
from dataclasses import fields
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field

from qdreamer.configs.registry import PartConfig, Registry
from qdreamer.configs.schema import ConfigError, Float, Int, one_of, settings
from qdreamer.worldmodel.attention.curriculum import RAMPS
from qdreamer.worldmodel.attention.kernel import AttentionKernel

ATTENTION: Registry[type[AttentionKernel]] = Registry("attention", "qdreamer.worldmodel.attention", "softmax")


@settings
class CurriculumConfig:
    """From softmax to the kind itself: `first` until update `start`, `last` from `length` updates later."""

    start: Int = Field(ge=0)
    length: Int = Field(ge=0)
    ramp: Annotated[str, one_of(lambda: RAMPS)]
    first: Float = Field(ge=0.0, le=1.0)
    last: Float = Field(ge=0.0, le=1.0)

    @property
    def used(self) -> bool:
        """Whether softmax takes any part."""
        return self.last < 1.0 or (self.start + self.length > 0 and self.first < 1.0)


@settings
class AttentionConfig(PartConfig):
    """What every kind has."""

    kept: ClassVar[bool] = False  # a kernel's class takes settings by their names
    heads: Int = Field(ge=1, le=1024)  # h and d, proposals that sequence=transformer takes over
    head: Int = Field(ge=2, le=1024)

    @property
    def schedule(self) -> CurriculumConfig | None:
        """How training goes over from softmax, for kinds that do."""
        return None

    @property
    def damped(self) -> bool:
        """Whether the past fades by gates that the block of attention learns (`decay.py`)."""
        return False

    def arguments(self, quantum: Any) -> dict[str, Any]:
        """What the kernel's class takes beside h and d: settings by their names.

        `quantum` is that section of the config, or None.
        """
        known = {field.name for field in fields(self)} | {"quantum"}
        names = [name for name in keywords(self.name) if name in known]
        return {name: quantum if name == "quantum" else getattr(self, name) for name in names}


@settings
class ScheduledConfig(AttentionConfig):
    """Kinds that training may begin without."""

    curriculum: CurriculumConfig

    @property
    def schedule(self) -> CurriculumConfig | None:
        return self.curriculum if self.curriculum.used else None


def keywords(name: str) -> list[str]:
    """What the class of the kind called `name` takes beside h and d. Raises ConfigError if there is none."""
    return list(inspect.signature(ATTENTION[name].part).parameters)[2:]


def make_kind(name: str, heads: int, width: int, **arguments: Any) -> AttentionKernel:
    """The kind called `name` for h heads of d features; `arguments` are those of its class.

    Raises ValueError for an unknown name or argument, or a wrong value.
    """
    known = keywords(name)
    wrong = sorted(set(arguments) - set(known))
    if wrong:
        raise ValueError(
            f"{name} attention has no {', '.join(wrong)}: it has {', '.join(known) or 'no settings'}"
        )
    kind = ATTENTION[name].part(heads, width, **arguments)
    outside = not type(kind).__module__.startswith("qdreamer.")
    if outside and type(kind).attend is AttentionKernel.attend and torch.get_default_device().type != "meta":
        _try(name, kind)  # where there are values: a stranger's scores may look at them
    return kind


@torch.no_grad()
def _try(name: str, kind: AttentionKernel) -> None:
    """Raises ConfigError unless a stranger's kind makes finite scores of the right shape."""
    q, k = (torch.linspace(-1.0, 1.0, n * kind.heads * kind.width) for n in (2, 3))
    shape = 1, kind.heads, -1, kind.width
    try:
        scores = kind.scores(kind.encode(q.view(shape)), kind.encode(k.view(shape)))
    except Exception as error:  # whatever a stranger's code raises
        raise ConfigError(f"attention={name}: its scores raise {type(error).__name__}: {error}") from error
    expected = 1, kind.heads, 2, 3
    if scores.shape != expected:
        raise ConfigError(
            f"attention={name}: scores of 2 queries and 3 keys have the shape {tuple(scores.shape)}, "
            f"not {expected}"
        )
    if not bool(scores.isfinite().all()):
        raise ConfigError(f"attention={name}: its scores are not finite")

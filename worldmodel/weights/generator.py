"""What makes the weights of a module: the interface of generators, and what each is registered with.

`weights=direct` is how networks are: every weight is a parameter. Any other choice makes the weights of the
modules that `weights.modules` names, each from few parameters of its own, once per update. Third parties
register under the entry points' group `qdreamer.weights`.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal, Protocol, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from qdreamer.configs.registry import PartConfig, Registry
from qdreamer.configs.schema import Int, settings
from qdreamer.worldmodel.weights.generated import generate

Make = Callable[[int], nn.Module]
"""Makes a module of so many units."""

Module = Literal["actor", "critic", "decoder", "prior", "posterior"]
"""Modules of the agent whose weights can be made: prior and posterior are the maps to the latents."""


@settings
class WeightsConfig(PartConfig):
    """What every choice has."""

    modules: Annotated[tuple[Module, ...], Field(min_length=1)] = ("actor",)
    scale: Literal["fan_in", "none"] = "fan_in"  # of what is made, see `generated.GeneratedWeights`

    @property
    def chosen(self) -> tuple[str, ...]:
        """Modules whose weights are not their own parameters."""
        return self.modules

    def arguments(self) -> dict[str, Any]:
        """Return what the generator's class takes beside the number of weights."""
        return {key: getattr(self, key) for key in vars(self) if key not in ("name", "modules", "scale")}


@settings
class SizedConfig(WeightsConfig):
    """Generators whose number of parameters is a setting."""

    parameters: Int = Field(ge=2)  # of each module, at most


class MakesWeights(Protocol):
    """What is registered."""

    @classmethod
    def build(cls, make: Make, units: int, config: Any) -> nn.Module:
        """Return a module whose weights are made, or that has few of them. Raises ValueError."""


WEIGHTS: Registry[MakesWeights] = Registry("weights", "qdreamer.worldmodel.weights", "hashed")


class WeightGenerator(nn.Module):
    """Makes M numbers, (M,), of its parameters: `forward` takes nothing.

    count: M. Raises ValueError for sizes that cannot be.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        if count < 1:
            raise ValueError(f"a generator makes at least one weight, not {count}")
        self.count = count

    @classmethod
    def build(cls, make: Make, units: int, config: WeightsConfig) -> nn.Module:
        def generator(count: int) -> WeightGenerator:
            return cls(count, **config.arguments())

        module = make(units)
        generate(module, generator, config.scale == "fan_in")
        return module

    @property
    def parameter_count(self) -> int:
        """Trainable numbers."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)


class FixedDraws(WeightGenerator):
    """A generator with a large random table that no state holds: it follows from a seed, which a state does.

    The seed is drawn with the other initial weights; subclasses draw their table in `draw`.
    """

    seed: Tensor

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.register_buffer("seed", torch.randint(2**31 - 1, ()))
        self.register_load_state_dict_post_hook(_draw_again)

    def draw(self, generator: torch.Generator) -> None:
        """Register the table, as buffers that are not persistent."""
        raise NotImplementedError

    def drawn(self) -> Self:
        """Draw the table of the present seed; return the generator."""
        like = next(self.parameters())
        self.draw(torch.Generator().manual_seed(int(self.seed)))
        for name in self._non_persistent_buffers_set:
            table = getattr(self, name)
            setattr(self, name, table.to(like) if table.is_floating_point() else table.to(like.device))
        return self


def _draw_again(module: nn.Module, keys: object) -> None:
    assert isinstance(module, FixedDraws)
    module.drawn()


def index_bits(rows: int, bits: int) -> Tensor:
    """Return ±1 for every bit of the indices 0 … rows − 1, (rows, bits), the lowest bit first."""
    return 2.0 * (torch.arange(rows)[:, None] >> torch.arange(bits) & 1) - 1.0


Sizes = Annotated[tuple[Annotated[Int, Field(ge=1)], ...], Field(max_length=8)]
"""Widths of hidden layers."""

"""`direct`: every weight is a parameter, as networks are."""

from torch import nn

from qdreamer.configs.schema import settings
from qdreamer.worldmodel.weights.generator import WEIGHTS, Make, Module, WeightsConfig


@settings
class DirectConfig(WeightsConfig):
    """Nothing is made."""

    name: str = "direct"
    modules: tuple[Module, ...] = ()

    @property
    def chosen(self) -> tuple[str, ...]:
        return ()


@WEIGHTS.register("direct", DirectConfig)
class Direct:
    """The module itself."""

    @classmethod
    def build(cls, make: Make, units: int, config: DirectConfig) -> nn.Module:
        return make(units)

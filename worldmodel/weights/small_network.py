"""`small_network`, a control: no generator, but a network so narrow that it has as few parameters."""

from torch import nn

from qdreamer.configs.schema import settings
from qdreamer.worldmodel.weights.generator import WEIGHTS, Make, SizedConfig


@settings
class SmallNetworkConfig(SizedConfig):
    """The width follows from the number of parameters; `scale` has no effect."""


@WEIGHTS.register("small_network", SmallNetworkConfig)
class SmallNetwork:
    """The module with the most units that its number of parameters allows."""

    @classmethod
    def build(cls, make: Make, units: int, config: SmallNetworkConfig) -> nn.Module:
        """Raises ValueError if one unit has too many parameters."""
        low, high = 1, units  # as bisection goes, `low` is known to fit
        smallest = size(make(1))
        if smallest > config.parameters:
            raise ValueError(
                f"one unit has {smallest} parameters: weights.parameters={config.parameters} "
                "must be at least that"
            )
        while low < high:
            middle = (low + high + 1) // 2
            if size(make(middle)) <= config.parameters:
                low = middle
            else:
                high = middle - 1
        return make(low)


def size(module: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(p.numel() for p in module.parameters())

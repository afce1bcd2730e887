"""Heads: small networks from features to an output distribution."""

from torch import Tensor, nn

from qdreamer.worldmodel.networks.distributions import Bernoulli, MeanSquare, OneHot
from qdreamer.worldmodel.networks.layers import MLP, Linear
from qdreamer.worldmodel.networks.two_hot import TwoHot, symexp_bins


class VectorHead(nn.Module):
    """Features (…, F) → a scaled vector observation (…, O)."""

    def __init__(self, features: int, units: int, layers: int, size: int) -> None:
        super().__init__()
        self.body = MLP(features, units, layers)
        self.out = Linear(units if layers else features, size)

    def forward(self, features: Tensor) -> MeanSquare:
        return MeanSquare(self.out(self.body(features)))


class DiscreteHead(nn.Module):
    """Features (…, F) → a categorical over n observation classes."""

    def __init__(self, features: int, units: int, layers: int, classes: int) -> None:
        super().__init__()
        self.body = MLP(features, units, layers)
        self.out = Linear(units if layers else features, classes)

    def forward(self, features: Tensor) -> OneHot:
        return OneHot(self.out(self.body(features)))


class BernoulliHead(nn.Module):
    """Features (…, F) → the probability that the episode continues (…)."""

    def __init__(self, features: int, units: int, layers: int) -> None:
        super().__init__()
        self.body = MLP(features, units, layers)
        self.out = Linear(units if layers else features, 1)

    def forward(self, features: Tensor) -> Bernoulli:
        return Bernoulli(self.out(self.body(features)).squeeze(-1))


class TwoHotHead(nn.Module):
    """Features (…, F) → a scalar as symexp two-hot bins; starts by predicting exactly 0."""

    bins: Tensor

    def __init__(self, features: int, units: int, layers: int, bins: int = 255) -> None:
        super().__init__()
        self.body = MLP(features, units, layers)
        self.out = Linear(units if layers else features, bins, scale=0.0)
        self.register_buffer("bins", symexp_bins(bins), persistent=False)

    def forward(self, features: Tensor) -> TwoHot:
        return TwoHot(self.body(features), self.bins, self.out.weight, self.out.bias)


def make_observation_head(size: int, discrete: bool, features: int, units: int, layers: int) -> nn.Module:
    """The decoder of observations with `size` entries, or `size` classes if discrete."""
    head = DiscreteHead if discrete else VectorHead
    return head(features, units, layers, size)

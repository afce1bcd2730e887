"""Encoders: an observation (B, T, ·) to an embedding (B, T, E)."""

from torch import Tensor, nn
from torch.nn import functional as F

from qdreamer.worldmodel.networks.layers import MLP, Linear, NormSiLU, init_random_bias


class VectorEncoder(nn.Module):
    """An MLP on scaled observations."""

    def __init__(self, size: int, units: int, layers: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            init_random_bias(Linear(size, units), std=2.0), NormSiLU(units), MLP(units, units, layers - 1)
        )

    def forward(self, observation: Tensor) -> Tensor:
        return self.body(observation)


class DiscreteEncoder(nn.Module):
    """One-hot, then an MLP."""

    def __init__(self, classes: int, units: int, layers: int) -> None:
        super().__init__()
        self.classes = classes
        self.body = MLP(classes, units, layers)

    def forward(self, observation: Tensor) -> Tensor:
        dtype = next(self.parameters()).dtype
        return self.body(F.one_hot(observation.long(), self.classes).to(dtype))


def make_encoder(size: int, discrete: bool, units: int, layers: int) -> nn.Module:
    """The encoder of observations with `size` entries, or classes; embeddings have `units`."""
    encoder = DiscreteEncoder if discrete else VectorEncoder
    return encoder(size, units, layers)

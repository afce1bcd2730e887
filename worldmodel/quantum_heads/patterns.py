"""How a path of n numbers joins the layers of a head: y (…, units) is what they make of features x (…, F).

Widths that differ are projected, by linear maps to n and back.
"""

from typing import Any

import torch
from torch import Tensor, nn

from qdreamer.configs.registry import Registry
from qdreamer.worldmodel.networks.layers import Linear, scale_gradient

PATTERNS: Registry[type["HybridLayers"]] = Registry("head_patterns", "qdreamer.worldmodel.quantum_heads")


class HybridLayers(nn.Module):
    """Base of all patterns; takes the place of a head's layers.

    Args:
        layers: the head's own, (…, F) → (…, units). inputs: F. units. path: (…, n) → (…, n). qubits: n.
    """

    after = True  # whether the path sees y, or x
    gradient = 1.0  # by which gradients into the path, and through it, are multiplied

    def __init__(self, layers: nn.Module, inputs: int, units: int, path: nn.Module, qubits: int) -> None:
        super().__init__()
        self.classical, self.path, self.width = layers, path, units
        self.compress = Linear(units if self.after else inputs, qubits)
        self.expand = Linear(qubits, units)

    def layers(self) -> list[Any]:
        """Return no layers that C could run."""
        return []

    def forward(self, x: Tensor) -> Tensor:
        y = self.classical(x)
        found = self.path(self.compress(y if self.after else x))
        return self.joined(y, scale_gradient(found, self.gradient))

    def joined(self, y: Tensor, found: Tensor) -> Tensor:
        """Return (…, units) of y and what the path found (…, n)."""
        raise NotImplementedError


@PATTERNS.register("sequential")
class Sequential(HybridLayers):
    """expand(path(compress(y))): all that comes out went through the circuit."""

    def joined(self, y: Tensor, found: Tensor) -> Tensor:
        return self.expand(found)


@PATTERNS.register("residual")
class Residual(HybridLayers):
    """y + expand(path(compress(y))); it starts as the head without a circuit: `expand` starts at 0."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        nn.init.zeros_(self.expand.weight)

    def joined(self, y: Tensor, found: Tensor) -> Tensor:
        return y + self.expand(found)


@PATTERNS.register("parallel")
class Parallel(HybridLayers):
    """fuse([y, path(compress(x))]): two paths from the features, fused by a linear map."""

    after = False

    def __init__(self, layers: nn.Module, inputs: int, units: int, path: nn.Module, qubits: int) -> None:
        super().__init__(layers, inputs, units, path, qubits)
        self.expand = Linear(units + qubits, units)  # fuses

    def joined(self, y: Tensor, found: Tensor) -> Tensor:
        return self.expand(torch.cat([y, found], -1))


@PATTERNS.register("attention")
class Attention(HybridLayers):
    """w₁·y + w₂·expand(path(compress(x))) with weights w = softmax(score([y, ·])) of each row."""

    after = False

    def __init__(self, layers: nn.Module, inputs: int, units: int, path: nn.Module, qubits: int) -> None:
        super().__init__(layers, inputs, units, path, qubits)
        self.score = Linear(2 * units, 2, scale=0.01)

    def joined(self, y: Tensor, found: Tensor) -> Tensor:
        other = self.expand(found)
        weights = torch.softmax(self.score(torch.cat([y, other], -1)), -1)  # (…, 2)
        return weights[..., :1] * y + weights[..., 1:] * other

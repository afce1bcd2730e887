"""What may stand where the circuit stands: the circuit, and the controls. Each is n numbers to n numbers."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from qdreamer.configs.registry import Registry
from qdreamer.worldmodel.quantum_heads.layer import QuantumLayer

PATHS: Registry[Callable[..., nn.Module]] = Registry("head_paths", "qdreamer.worldmodel.quantum_heads")
"""Called with the number of qubits and those keywords of `QuantumLayer` that it takes by name, or by **."""


@PATHS.register("circuit")
def circuit(qubits: int, **settings: Any) -> nn.Module:
    """Return the circuit itself."""
    return QuantumLayer(qubits, **settings)


@PATHS.register("separable")
def separable(qubits: int, **settings: Any) -> nn.Module:
    """Return it without entangling gates."""
    return QuantumLayer(qubits, **settings, ring=False)


@PATHS.register("frozen")
def frozen(qubits: int, **settings: Any) -> nn.Module:
    """Return it with angles that stay as they were drawn."""
    return QuantumLayer(qubits, **settings, trainable=False)


@PATHS.register("zeroed")
class Zeroed(nn.Module):
    """Nothing comes through: zeros."""

    passes_gradients = False

    def __init__(self, qubits: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


@PATHS.register("random")
class Random(nn.Module):
    """Numbers in [−1, 1] that scatter like noise, yet are the same for the same inputs; no gradients."""

    keys: Tensor
    passes_gradients = False

    def __init__(self, qubits: int) -> None:
        super().__init__()
        self.register_buffer("keys", torch.randn(qubits, qubits))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.sin(1e4 * (x @ self.keys).sin())


@PATHS.register("mlp")
class EqualMLP(nn.Module):
    """tanh(V tanh(W x + b) + c) with at most as many parameters as the circuit has."""

    def __init__(self, qubits: int, blocks: int = 2) -> None:
        super().__init__()
        hidden = max(1, (6 * qubits * blocks - qubits) // (2 * qubits + 1))
        parts = nn.Linear(qubits, hidden), nn.Tanh(), nn.Linear(hidden, qubits), nn.Tanh()
        self.network = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)

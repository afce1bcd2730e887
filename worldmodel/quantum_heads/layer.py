"""A layer that is a circuit: numbers in, expectation values out (`quantum.circuits.angle_encoding`)."""

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from qdreamer.quantum.circuits.angle_encoding import (
    encoded,
    encoding_circuit,
    encoding_values,
    expectations,
)
from qdreamer.quantum.circuits.entangling import evolve, probabilities
from qdreamer.quantum.circuits.sampling import draw

Rule = Literal["sigmoid", "tanh", "minmax", "clamp"]


def _minmax(x: Tensor) -> Tensor:
    low, high = x.aminmax(dim=-1, keepdim=True)
    return (x - low) / (high - low).clamp(min=1e-6)


RULES: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": lambda x: 0.5 * (torch.tanh(x) + 1.0),
    "minmax": _minmax,  # of each row
    "clamp": lambda x: x.clamp(0.0, 1.0),  # for what lies there already
}
"""How rows (…, n) of any numbers come to lie in [0, 1]."""


class QuantumLayer(nn.Module):
    """(…, n) → ⟨Z⟩ of n qubits (…, n), in [−1, 1], with gradients to inputs and angles.

    Args:
        qubits, blocks: n ≥ 2 and L; trainable are 6nL angles, which start small.
        normalize: rule by which inputs come to lie in [0, 1].
        device: a PennyLane device by name; None is our own simulation, of all rows at once.
        shots: of each row; None is exact. Our simulation then draws them, and its gradients are the exact
            ones; PennyLane's are by the parameter-shift rule.
        ring: whether qubits are entangled. trainable: whether the angles learn.
    """

    angles: Tensor

    def __init__(
        self,
        qubits: int,
        blocks: int = 2,
        normalize: Rule = "sigmoid",
        device: str | None = None,
        shots: int | None = None,
        ring: bool = True,
        trainable: bool = True,
    ) -> None:
        super().__init__()
        if qubits < 2 or blocks < 1 or (shots is not None and shots < 1):
            raise ValueError(f"qubits={qubits} must be at least 2, blocks={blocks} and shots={shots} 1")
        if normalize not in RULES:
            raise ValueError(f"normalize={normalize} is not one of {', '.join(RULES)}")
        self.qubits, self.blocks, self.ring = qubits, blocks, ring
        self.normalize, self.device, self.shots = normalize, device, shots
        angles = 0.1 * math.pi * (2.0 * torch.rand(blocks, 1 + ring, qubits, 3) - 1.0)
        if trainable:
            self.angles = nn.Parameter(angles)
        else:
            self.register_buffer("angles", angles)

    def forward(self, x: Tensor) -> Tensor:
        """Raises ValueError for inputs of another width."""
        if x.shape[-1] != self.qubits:
            raise ValueError(f"inputs of {x.shape[-1]} numbers do not fit {self.qubits} qubits: project them")
        with torch.autocast(x.device.type, enabled=False):  # circuits stay in single precision
            rows = RULES[self.normalize](x.float() if x.itemsize < 4 else x).reshape(-1, self.qubits)
            out = self._simulated(rows) if self.device is None else self._on_device(rows)
        return out.view(x.shape)

    def _simulated(self, rows: Tensor) -> Tensor:
        p = probabilities(evolve(encoded(rows), self.angles))  # (R, 2^n)
        exact = expectations(p)
        if self.shots is None:
            return exact
        # Seeded by the inputs: the same batch sees the same shots, so that a resumed run is exact.
        total = float(rows.detach().double().sum())
        source = torch.Generator().manual_seed(int(1e6 * total) % 2**31 if math.isfinite(total) else 0)
        index = draw(p.detach().cpu(), self.shots, source)
        counts = torch.zeros(p.shape).scatter_add_(1, index, torch.ones(index.shape)).to(p)
        return exact + (expectations(counts / self.shots) - exact).detach()

    def _on_device(self, rows: Tensor) -> Tensor:
        return self._node(encoding_values(rows, self.angles)).to(rows)

    @cached_property
    def _node(self) -> Callable[[Tensor], Any]:
        from qdreamer.quantum.backends.pennylane_backend import expectation_node

        assert self.device is not None
        circuit = encoding_circuit(self.blocks, self.qubits, self.ring)
        return expectation_node(circuit, self.device, self.shots)

"""Probabilities and their gradients from shots, and what they would cost on a device.

A rotation exp(−iθP/2) has the exact derivative ∂f/∂θ = (f(θ + π/2) − f(θ − π/2))/2 (Mitarai et al. 2018), so
a gradient takes two circuits for every rotation.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from qdreamer.quantum.circuits.backend import Backend, Usage, run
from qdreamer.quantum.circuits.circuit import Circuit
from qdreamer.quantum.circuits.entangling import EntanglingTask, check_angles, entangling_circuit, gate_angles
from qdreamer.quantum.circuits.sampling import bits_to_index


def frequencies(bits: Tensor) -> Tensor:
    """Return how often each index was drawn, (R, 2^n) float64, of bits (R, S, n)."""
    rows, shots, n = bits.shape
    counts = torch.zeros(rows, 2**n, dtype=torch.float64)
    return counts.scatter_add_(1, bits_to_index(bits), torch.ones(rows, shots, dtype=torch.float64)) / shots


def measured_probabilities(angles: Tensor, backend: Backend, shots: int, seed: int) -> Tensor:
    """Return p̂ (2^n,), float64, of the blocks with angles (L, ·, n, 3), from `shots` shots on a backend."""
    return frequencies(run(backend, [EntanglingTask(angles[None])], shots, seed).bits[0])[0]


@dataclass(frozen=True, eq=False)
class ShiftedTask:
    """A circuit whose rotations are shifted one by one: rows 2k and 2k + 1 by ±π/2 in angle k of (P,)."""

    shape: Circuit
    angles: Tensor

    @property
    def rows(self) -> int:
        return 2 * len(self.angles)

    def circuit(self) -> Circuit:
        return self.shape

    def values(self) -> Tensor:
        shift = torch.eye(len(self.angles), dtype=torch.float64) * (math.pi / 2)
        base = self.angles.detach().double().cpu()
        return torch.stack([base + shift, base - shift], 1).flatten(0, 1)


def shifted_gradient(angles: Tensor, slopes: Tensor, backend: Backend, shots: int, seed: int) -> Tensor:
    """Return ∂f/∂angles (L, ·, n, 3) of f(p) with slopes ∂f/∂p (2^n,), by shifted circuits and shots."""
    circuit = entangling_circuit(*check_angles(angles))
    leaf = angles.detach().double().cpu().requires_grad_()
    gates = gate_angles(leaf)  # linear, so its gradient carries the gates' slopes to the angles
    bits = run(backend, [ShiftedTask(circuit, gates)], shots, seed).bits[0]
    values = frequencies(bits) @ slopes.detach().double().cpu()  # (2P,)
    each = (values[0::2] - values[1::2]) / 2
    return torch.autograd.grad(gates, leaf, each)[0].to(angles)


def update_cost(blocks: int, qubits: int, draws: int = 10) -> Usage:
    """Return circuits and shots of one update: p itself, and two shifted circuits for every rotation.

    draws: of a basis state of average probability 2^−n; 10 leave it a relative error of a third.
    """
    circuits = 1 + 2 * entangling_circuit(blocks, qubits).parameters
    return Usage(circuits, circuits * draws * 2**qubits)

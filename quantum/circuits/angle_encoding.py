"""Numbers in [0, 1] as angles of qubits, entangling blocks behind them, and what is expected of Z.

    |u⟩ = ⊗_q RY(π u_q)|0⟩ = ⊗_q (cos(π u_q/2)|0⟩ + sin(π u_q/2)|1⟩);   z_q = ⟨ψ|Z_q|ψ⟩ of |ψ⟩ = blocks·|u⟩

With no block but angles of zero, z_q = cos(π u_q).
"""

import functools
import math

import torch
from torch import Tensor

from qdreamer.quantum.circuits.circuit import Circuit, Gate
from qdreamer.quantum.circuits.entangling import (
    check_angles,
    entangling_circuit,
    evolve,
    gate_angles,
    probabilities,
)


def encoded(inputs: Tensor) -> Tensor:
    """Return the states |u⟩ (R, 2^n), complex, of rows u (R, n); bit q of an index belongs to qubit q."""
    half = inputs * (math.pi / 2)
    pairs = torch.stack([torch.cos(half), torch.sin(half)], -1)  # (R, n, 2)
    state = pairs[:, 0]
    for q in range(1, pairs.shape[1]):
        state = (pairs[:, q, :, None] * state[:, None, :]).flatten(1)
    return torch.complex(state, torch.zeros_like(state))


def expectations(p: Tensor) -> Tensor:
    """Return ⟨Z_q⟩ (R, n) of probabilities (R, 2^n)."""
    qubits = p.shape[-1].bit_length() - 1
    bits = torch.arange(p.shape[-1], device=p.device)[:, None] >> torch.arange(qubits, device=p.device) & 1
    return p @ (1 - 2 * bits).to(p)


def expected_z(inputs: Tensor, angles: Tensor) -> Tensor:
    """Return z (R, n) of rows u (R, n) and blocks with angles (L, ·, n, 3), with gradients to both."""
    return expectations(probabilities(evolve(encoded(inputs), angles)))


@functools.lru_cache(maxsize=16)
def encoding_circuit(blocks: int, qubits: int, ring: bool = True) -> Circuit:
    """Return all gates: the first n angles encode, those of `entangling_circuit` follow."""
    behind = entangling_circuit(blocks, qubits, ring)
    first = tuple(Gate("ry", (q,), q) for q in range(qubits))
    later = tuple(
        gate if gate.parameter is None else Gate(gate.name, gate.qubits, gate.parameter + qubits)
        for gate in behind.gates
    )
    return Circuit(qubits, first + later, behind.parameters + qubits)


def encoding_values(inputs: Tensor, angles: Tensor) -> Tensor:
    """Return the angles (R, P) of `encoding_circuit` for rows u (R, n), with gradients."""
    check_angles(angles)
    return torch.cat([math.pi * inputs, gate_angles(angles).expand(len(inputs), -1)], 1)

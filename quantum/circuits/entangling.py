"""Blocks of U3 on every qubit and controlled U3 around a ring: the circuits of Quantum-Train.

Liu et al., arXiv:2405.11304, and the code published with it:

    |ψ⟩ = Π_l [Π_q CU3(q → q+1 mod n) · ⊗_q U3] |0…0⟩

    U3(θ, φ, λ) = | cos θ/2          −e^{iλ} sin θ/2     |
                  | e^{iφ} sin θ/2    e^{i(φ+λ)} cos θ/2 |

Angles are (L, 2, n, 3): L blocks; U3 of qubit q, then the CU3 that it controls; θ, φ, λ. That is 6nL
parameters. Angles (L, 1, n, 3) leave the ring out: a product state, the control without entanglement.
"""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from qdreamer.quantum.circuits.circuit import Circuit, Gate

RING_GATES = 3
"""CU3 that are applied as one matrix, of 16×16: a chain of them and the U3 on its qubits."""


def check_angles(angles: Tensor) -> tuple[int, int, bool]:
    """Return blocks L, qubits n and whether there is a ring. Raises ValueError for another shape."""
    shape = tuple(angles.shape)
    if len(shape) != 4 or shape[1] not in (1, 2) or shape[2] < 2 or shape[3] != 3:
        raise ValueError(f"angles must be (L, 2, n, 3), or (L, 1, n, 3) without a ring, n ≥ 2, not {shape}")
    return shape[0], shape[2], shape[1] == 2


def u3(angles: Tensor) -> Tensor:
    """Return the matrices (…, 2, 2), complex, of angles (…, 3)."""
    theta, phi, lam = angles.unbind(-1)
    cos, sin = torch.cos(theta / 2), torch.sin(theta / 2)
    zero = torch.zeros_like(theta)
    entries = (
        torch.complex(cos, zero),
        torch.complex(-sin * torch.cos(lam), -sin * torch.sin(lam)),
        torch.complex(sin * torch.cos(phi), sin * torch.sin(phi)),
        torch.complex(cos * torch.cos(phi + lam), cos * torch.sin(phi + lam)),
    )
    return torch.stack(entries, -1).unflatten(-1, (2, 2))


def evolve(state: Tensor, angles: Tensor) -> Tensor:
    """Return the states (R, 2^n) after all blocks, of states (R, 2^n); complex, with gradients.

    Gates on neighbouring qubits are multiplied first, for all blocks at once; each product then meets the
    lowest qubits of the index, which is turned by as many bits so that the next ones come to lie there.
    """
    _, n, ring = check_angles(angles)
    rows, single = len(state), u3(angles[:, 0])  # (L, n, 2, 2)
    groups = _ring_groups(single, u3(angles[:, 1])) if ring else _product_groups(single)
    for block in range(1 if not ring else len(angles)):
        for turn, matrices in groups:
            matrix = matrices[block]  # (2^k, 2^k)
            state = state.reshape(-1, len(matrix)) @ matrix.t()
            state = state.view(rows, -1, 2**turn).transpose(1, 2).reshape(rows, 2**n)
    return state


def amplitudes(angles: Tensor) -> Tensor:
    """Return ψ (2^n,), complex, from |0…0⟩; bit q of an index belongs to qubit q."""
    _, n, _ = check_angles(angles)
    start = torch.zeros(1, 2**n, dtype=angles.dtype.to_complex(), device=angles.device)
    start[0, 0] = 1.0
    return evolve(start, angles)[0]


def probabilities(state: Tensor) -> Tensor:
    """Return |ψ|² of amplitudes (…)."""
    return state.real.square() + state.imag.square()


def _kron(matrices: list[Tensor]) -> Tensor:
    """Return the matrices (L, 2^k, 2^k) on k qubits of those (L, 2, 2) on each, the lowest first."""
    out = matrices[0]
    for higher in matrices[1:]:
        size = 2 * out.shape[-1]
        out = (higher[:, :, None, :, None] * out[:, None, :, None, :]).reshape(-1, size, size)
    return out


def _controlled(matrices: Tensor) -> Tensor:
    """Return (…, 4, 4) of U (…, 2, 2), on the index 2·target + control."""
    out = matrices.new_zeros(*matrices.shape[:-2], 4, 4)
    out[..., 0, 0] = out[..., 2, 2] = 1.0
    out[..., 1::2, 1::2] = matrices
    return out


def _ring_groups(single: Tensor, ring: Tensor) -> list[tuple[int, Tensor]]:
    """Return (bits to turn by, matrices (L, 2^k, 2^k)) of chains of CU3 with the U3 that come before them."""
    n, controlled = single.shape[1], _controlled(ring)  # (L, n, 4, 4)
    identity = torch.eye(2, dtype=single.dtype, device=single.device).expand(len(single), 2, 2)
    most, groups = min(RING_GATES, n - 1), []
    for first in range(0, n, most):
        turn = min(most, n - first)
        # The chain's first qubit had its U3 in the chain before, and qubit 0 at the very beginning.
        fresh = [q < n and (q > first or q == 0) for q in range(first, first + turn + 1)]
        matrix = _kron([single[:, first + k] if new else identity for k, new in enumerate(fresh)])
        size = matrix.shape[-1]
        for k in range(turn):
            parts = matrix.view(len(matrix), size >> k + 2, 4, -1)
            matrix = (controlled[:, first + k, None] @ parts).view(-1, size, size)
        groups.append((turn, matrix))
    return groups


def _product_groups(single: Tensor) -> list[tuple[int, Tensor]]:
    """Return the same without a ring: all blocks are one."""
    total = single[0]
    for block in single[1:]:
        total = block @ total
    parts = total.split(RING_GATES + 1)
    return [(len(part), _kron(list(part.unsqueeze(1)))) for part in parts]


@functools.lru_cache(maxsize=32)
def entangling_circuit(blocks: int, qubits: int, ring: bool = True) -> Circuit:
    """Return the blocks in the gates that every backend knows, equal up to a phase.

    U3(θ, φ, λ) = RZ(φ) RY(θ) RZ(λ), and a controlled one takes two CX and six rotations (as in OpenQASM 2);
    `gate_angles` gives their angles.
    """
    gates: list[Gate] = []
    count = 0

    def rotate(*named: tuple[str, int]) -> None:
        nonlocal count
        for name, qubit in named:
            gates.append(Gate(name, (qubit,), count))
            count += 1

    for _ in range(blocks):
        for q in range(qubits):
            rotate(("rz", q), ("ry", q), ("rz", q))
        for control in range(qubits if ring else 0):
            target = (control + 1) % qubits
            rotate(("rz", control), ("rz", target))
            gates.append(Gate("cx", (control, target)))
            rotate(("rz", target), ("ry", target))
            gates.append(Gate("cx", (control, target)))
            rotate(("ry", target), ("rz", target))
    return Circuit(qubits, tuple(gates), count)


_U3 = [[0, 0, 1], [1, 0, 0], [0, 1, 0]]  # rows: λ, θ, φ of (θ, φ, λ)
_CU3 = [[0, 0.5, 0.5], [0, -0.5, 0.5], [0, -0.5, -0.5], [-0.5, 0, 0], [0.5, 0, 0], [0, 1, 0]]


def gate_angles(angles: Tensor) -> Tensor:
    """Return the angles (P,) of `entangling_circuit`'s gates: linear in angles (L, ·, n, 3)."""
    parts = [(angles[:, 0] @ angles.new_tensor(_U3).t()).flatten(1)]
    if check_angles(angles)[2]:
        parts.append((angles[:, 1] @ angles.new_tensor(_CU3).t()).flatten(1))
    return torch.cat(parts, 1).flatten()


@dataclass(frozen=True, eq=False)
class EntanglingTask:
    """Measure the state of each row of angles (R, L, ·, n, 3)."""

    angles: Tensor

    @property
    def rows(self) -> int:
        return len(self.angles)

    def circuit(self) -> Circuit:
        return entangling_circuit(*check_angles(self.angles[0]))

    def values(self) -> Tensor:
        return torch.stack([gate_angles(row.detach().double().cpu()) for row in self.angles])

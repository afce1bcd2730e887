"""k fermions in orthonormal modes: a state whose measurement is a determinantal process.

With V (M, k), VᵀV = 1, the Slater determinant of the columns is found in the k modes S with probability
det(V_S)². It is prepared by X on the first k of M qubits and by Givens rotations of neighbours (by the
Jordan–Wigner transform; Bardenet, Fanuel & Feller, arXiv:2305.15851), k·M − k(k + 1)/2 of them.
"""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from qdreamer.quantum.circuits.circuit import Circuit, Gate


@functools.lru_cache(maxsize=32)
def slater_circuit(modes: int, particles: int) -> Circuit:
    """Return the circuit, whose angles are those of `givens_angles`: two for each rotation."""
    gates = [Gate("x", (q,)) for q in range(particles)]
    places = _places(modes, particles)
    for k, (_, b) in enumerate(reversed(places)):
        a = b - 1  # |10⟩ → cos θ |10⟩ + sin θ |01⟩, |01⟩ → cos θ |01⟩ − sin θ |10⟩ of qubits a and b
        gates += [
            Gate("cx", (b, a)),
            Gate("ry", (b,), 2 * k), Gate("cx", (a, b)), Gate("ry", (b,), 2 * k + 1), Gate("cx", (a, b)),
            Gate("cx", (b, a)),
        ]  # fmt: skip
    return Circuit(modes, tuple(gates), 2 * len(places))


def givens_angles(vectors: Tensor) -> Tensor:
    """Return the circuit's angles (P,), float64, for orthonormal columns V (M, k).

    Rotations of neighbouring rows that turn V into the first k unit vectors, undone in turn.
    """
    columns = vectors.t().double().clone()  # (k, M)
    found = []
    for row, b in _places(columns.shape[1], columns.shape[0]):
        theta = torch.atan2(columns[row, b], columns[row, b - 1])
        c, s = torch.cos(theta), torch.sin(theta)
        left, right = columns[:, b - 1].clone(), columns[:, b].clone()
        columns[:, b - 1], columns[:, b] = c * left + s * right, c * right - s * left
        found.append(theta)
    angles = torch.stack(found[::-1]) if found else columns.new_zeros(0)
    return torch.stack([angles, -angles], -1).flatten()


def _places(modes: int, particles: int) -> list[tuple[int, int]]:
    """Which entry (row of Vᵀ, mode) each rotation of modes b − 1 and b makes zero."""
    return [(row, b) for row in range(particles) for b in range(modes - 1, row, -1)]


@dataclass(frozen=True, eq=False)
class SlaterTask:
    """Samples of determinantal processes: V (R, M, k), each with orthonormal columns."""

    vectors: Tensor

    @property
    def rows(self) -> int:
        return len(self.vectors)

    def circuit(self) -> Circuit:
        return slater_circuit(*self.vectors.shape[1:])

    def values(self) -> Tensor:
        return torch.stack([givens_angles(v) for v in self.vectors])

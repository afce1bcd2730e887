"""Overlaps ⟨φ(q)|φ(k)⟩² of amplitude-encoded real vectors by the inversion test.

Load q, then undo the loading of k: all qubits read 0 with probability ⟨φ(q)|φ(k)⟩². The last level
of the one and the first of the other are multiplexed rotations of the same qubit, so their angles are
subtracted and one is saved: 2(2^n − 2) − 2^{n−1} CX.
"""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from qdreamer.quantum.circuits.circuit import Circuit, Gate
from qdreamer.quantum.circuits.grover_rudolph import gray_walsh, multiplexed, signed_angles
from qdreamer.quantum.circuits.readout import zero_probability


def exact_overlaps(queries: Tensor, keys: Tensor) -> Tensor:
    """Return ⟨φ(q)|φ(k)⟩² (R,) of the rows of (R, d) and (R, d), normalised; float64."""
    q, k = queries.to(torch.float64), keys.to(torch.float64)
    return (q * k).sum(-1) ** 2 / ((q * q).sum(-1) * (k * k).sum(-1))


def qubits_for(width: int) -> int:
    """Return n with 2^n ≥ d, at least 1."""
    return max(1, (width - 1).bit_length())


@functools.lru_cache(maxsize=16)
def overlap_circuit(n: int) -> Circuit:
    """Build levels of q downwards, the last one merged, then levels of k upwards."""
    gates: list[Gate] = []
    first = 0
    for level in range(n):
        gates += multiplexed("ry", n, level, first)
        first += 2**level
    for level in reversed(range(n - 1)):
        gates += multiplexed("ry", n, level, first + 2**level - 1)
    return Circuit(n, tuple(gates), first + 2 ** (n - 1) - 1)


def overlap_values(queries: Tensor, keys: Tensor) -> Tensor:
    """Return angles (R, P) for `overlap_circuit`. Raises ValueError for vectors of length 0."""
    n = qubits_for(queries.shape[1])
    pad = (0, 2**n - queries.shape[1])
    q, k = (signed_angles(torch.nn.functional.pad(x.double(), pad)) for x in (queries, keys))
    down = [*q[:-1], q[-1] - k[-1]]
    up = [-theta for theta in k[:-1]]
    return torch.cat([gray_walsh(theta) for theta in (*down, *up)], 1)


@dataclass(frozen=True, eq=False)
class OverlapTask:
    """Measure ⟨φ(q)|φ(k)⟩² for each row of queries and keys (R, d)."""

    queries: Tensor
    keys: Tensor

    def __post_init__(self) -> None:
        if self.queries.dim() != 2 or self.queries.shape != self.keys.shape:
            shapes = f"{tuple(self.queries.shape)} and {tuple(self.keys.shape)}"
            raise ValueError(f"queries and keys must both be (R, d), not {shapes}")

    @property
    def rows(self) -> int:
        return len(self.queries)

    def circuit(self) -> Circuit:
        return overlap_circuit(qubits_for(self.queries.shape[1]))

    def values(self) -> Tensor:
        return overlap_values(self.queries, self.keys)

    @staticmethod
    def overlaps(bits: Tensor, confusion: Tensor | None = None) -> Tensor:
        """Estimate overlaps (R,) from measured bits (R, S, n), readout errors undone if they are known."""
        return zero_probability(bits, confusion).to(torch.float64)

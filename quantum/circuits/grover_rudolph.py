"""Loading amplitudes by a binary tree of rotations (Grover & Rudolph, quant-ph/0208112).

A sum tree over 2^n weights holds, at every node, the sum below it. The node's rotation

    θ = 2·arcsin √(right / total)

puts amplitude √(right/total) on its right child, so the tree's root qubit, then each level's qubit
controlled by all qubits above it, prepare Σ_x √p_x |x⟩. A level is a multiplexed RY: 2^k rotations
and, for k > 0, 2^k CX in the order of a Gray code (Möttönen et al. quant-ph/0407010): 2^n − 2 CX in
all. Reading the tree downwards with coin flips draws the same samples without a circuit.
"""

import functools
import itertools
from dataclasses import dataclass, field

import torch
from torch import Tensor

from qdreamer.quantum.circuits.circuit import Circuit, Gate


def sum_tree(weights: Tensor) -> list[Tensor]:
    """Return sums (R, 2^k) of weights (R, 2^n) at the levels k = 0 (the root) … n (the weights), float64.

    Raises ValueError unless the weights are finite, not negative, not all 0, and 2^n in number.
    """
    levels = [weights.to(torch.float64)]
    size = weights.shape[-1]
    if size < 2 or size & (size - 1):
        raise ValueError(f"{size} weights are not a power of two: pad them with zeros")
    if not (torch.isfinite(levels[0]).all() and (levels[0] >= 0).all()):
        raise ValueError("weights must be finite and not negative")
    while levels[0].shape[1] > 1:
        levels.insert(0, levels[0][:, 0::2] + levels[0][:, 1::2])
    if not (levels[0] > 0).all():
        raise ValueError("weights must not all be 0")
    return levels


def tree_angles(levels: list[Tensor]) -> list[Tensor]:
    """Return θ (R, 2^k) of the nodes at the levels k = 0 … n−1; 0 at nodes without weight.

    Taken as 2·atan2(√right, √left), which keeps its precision where almost all weight is on one side.
    """
    return [2 * torch.atan2(x[:, 1::2].sqrt(), x[:, 0::2].sqrt()) for x in levels[1:]]


def signed_angles(vectors: Tensor) -> list[Tensor]:
    """Return θ of the tree that loads real vectors (R, 2^n), normalised, with their signs.

    The last level's angles 2·atan2(right, left) carry the signs. Raises ValueError as `sum_tree`.
    """
    v = vectors.to(torch.float64)
    angles = tree_angles(sum_tree(v * v))
    angles[-1] = 2 * torch.atan2(v[:, 1::2], v[:, 0::2])
    return angles


def descend(levels: list[Tensor], shots: int, source: torch.Generator) -> Tensor:
    """Draw indices (R, S), int64, by measuring the tree's qubits one after the other.

    At each node the next qubit reads 1 with probability sin²(θ/2) = right/total. Weights of 0 are
    never drawn.
    """
    node = torch.zeros(len(levels[0]), shots, dtype=torch.int64)
    for total, below in itertools.pairwise(levels):
        coin = torch.rand(node.shape, dtype=torch.float64, generator=source)
        left = below.gather(1, 2 * node)
        right = below.gather(1, 2 * node + 1)
        # u·total may round up to the left sum where nothing lies on the right.
        node = 2 * node + ((coin * total.gather(1, node) >= left) & (right > 0))
    return node


@functools.lru_cache(maxsize=16)
def loading_circuit(n: int) -> Circuit:
    """Build the circuit that loads n qubits, 2^n − 2 CX; its angles are `loading_values`."""
    gates: list[Gate] = []
    for level in range(n):
        gates += multiplexed("ry", n, level, 2**level - 1)
    return Circuit(n, tuple(gates), 2**n - 1)


def loading_values(angles: list[Tensor]) -> Tensor:
    """Convert node angles θ, level by level, → the circuit's angles (R, 2^n − 1)."""
    return torch.cat([gray_walsh(theta) for theta in angles], 1)


def multiplexed(name: str, n: int, level: int, first: int) -> list[Gate]:
    """Return rotations ("ry" or "rz") of qubit n−1−level, one for each setting of the qubits above it.

    Their angles start at `first`, and are those of `gray_walsh`.
    """
    target = n - 1 - level
    if level == 0:
        return [Gate(name, (target,), first)]
    gates = []
    for i in range(2**level):
        gates.append(Gate(name, (target,), first + i))
        # The bit in which the Gray codes of i and i + 1 differ; the last step closes the circle.
        changed = min(((i + 1) & -(i + 1)).bit_length() - 1, level - 1)
        gates.append(Gate("cx", (n - level + changed, target)))
    return gates


def gray_walsh(angles: Tensor) -> Tensor:
    """Return φ_i = 2^{−k} Σ_m (−1)^{m·g(i)} θ_m with g the Gray code: (R, 2^k) → (R, 2^k).

    CX before and after flip the sign of a rotation, so that φ undoes what the circuit sums.
    """
    rows, size = angles.shape
    out = angles
    half = 1
    while half < size:  # fast Walsh–Hadamard transform
        pairs = out.view(rows, size // (2 * half), 2, half)
        out = torch.stack([pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], 2)
        out = out.view(rows, size)
        half *= 2
    i = torch.arange(size)
    return out[:, i ^ (i >> 1)] / size


@dataclass(frozen=True, eq=False)
class AmplitudeTask:
    """Sample Σ_x √(w_x/Σw) |x⟩ for each row of weights (R, 2^n).

    Raises ValueError for weights that are no distribution: see `sum_tree`.
    """

    weights: Tensor
    tree: list[Tensor] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tree", sum_tree(self.weights))

    @property
    def rows(self) -> int:
        return len(self.weights)

    def circuit(self) -> Circuit:
        return loading_circuit(len(self.tree) - 1)

    def values(self) -> Tensor:
        return loading_values(tree_angles(self.tree))

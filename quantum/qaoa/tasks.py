"""What circuits are run for: sampling an Ising problem, sampling loaded amplitudes, overlaps."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from qdreamer.quantum.circuits.circuit import Circuit
from qdreamer.quantum.circuits.grover_rudolph import loading_circuit, loading_values, sum_tree, tree_angles
from qdreamer.quantum.circuits.overlaps import overlap_circuit, overlap_values, qubits_for
from qdreamer.quantum.qaoa.angles import Angles
from qdreamer.quantum.qaoa.ising import Ising, bits_to_index
from qdreamer.quantum.qaoa.qaoa import Simulator
from qdreamer.quantum.qaoa.qaoa_circuit import qaoa_circuit, qaoa_values
from qdreamer.quantum.qaoa.readout import zero_probability


@dataclass(frozen=True, eq=False)
class IsingTask:
    """Sample QAOA states of a problem, one row for each set of angles."""

    ising: Ising
    angles: Angles

    @property
    def rows(self) -> int:
        return len(self.angles.gamma)

    def circuit(self) -> Circuit:
        warm = self.angles.warm is not None
        return qaoa_circuit(self.ising.qubits, self.ising.edges, self.angles.layers, warm)

    def values(self) -> Tensor:
        return qaoa_values(self.ising, self.angles, self.ising.edges)

    def probabilities(self) -> Tensor:
        return Simulator(self.ising).probabilities(self.angles)


@dataclass(frozen=True, eq=False)
class AmplitudeTask:
    """Sample Σ_x √(w_x/Σw) |x⟩ for each row of weights (R, 2^n).

    Raises ValueError for weights that are no distribution: see `grover_rudolph.sum_tree`.
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

    def probabilities(self) -> Tensor:
        return self.tree[-1] / self.tree[0]

    @staticmethod
    def indices(bits: Tensor) -> Tensor:
        """Measured bits (R, S, n) → indices (R, S)."""
        return bits_to_index(bits)


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

    def probabilities(self) -> None:
        return None

    @staticmethod
    def overlaps(bits: Tensor, confusion: Tensor | None = None) -> Tensor:
        """Measured bits (R, S, n) → estimated overlaps (R,), readout errors undone if they are known."""
        return zero_probability(bits, confusion).to(torch.float64)

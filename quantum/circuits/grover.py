"""Amplitude amplification (Brassard, Høyer, Mosca & Tapp, quant-ph/0005055) of numbers that a circuit holds.

A circuit A prepares A|0⟩ = cos θ |bad⟩ + sin θ |good⟩. Grover's iteration

    Q = −A S₀ A† S_χ,      S_χ flips the sign of what is good, S₀ that of |0…0⟩

turns this plane by 2θ, so Q^m A|0⟩ is found good with probability sin²((2m + 1)θ), for 2m + 1 uses of A.
Signs are flipped by multiplexed RZ, 2^n − 2 CX on n qubits, as many as loading 2^n amplitudes takes. (With
further qubits O(n) gates would do; then loading is all that counts.)
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from qdreamer.quantum.circuits.circuit import Circuit, Gate
from qdreamer.quantum.circuits.grover_rudolph import (
    gray_walsh,
    loading_circuit,
    loading_values,
    multiplexed,
    sum_tree,
    tree_angles,
)


class Oracle(Protocol):
    """A of R problems of one shape, what is good, and its probability a = sin²θ."""

    @property
    def prepare(self) -> Circuit:
        """Return A, the same object for every oracle of this shape."""

    @property
    def angles(self) -> Tensor:
        """Return A's angles (R, P), float64."""

    @property
    def mark(self) -> tuple[tuple[Gate, ...], Tensor]:
        """Return S_χ up to a global phase: gates, and their angles (M,), float64."""

    def good(self, bits: Tensor) -> Tensor:
        """Return which measured bits (…, n) are good, bool."""

    @property
    def probability(self) -> Tensor:
        """Return a (R,), float64: the exact answer."""

    @property
    def mixed(self) -> float:
        """Return the share of basis states that are good: a, as a device that only makes noise has it."""


@dataclass(frozen=True, eq=False)
class MeanOracle:
    """The mean of numbers x (R, 2^n) in [0, 1]: a = Σ_i x_i / 2^n.

    All n indices at once, and one more qubit (qubit 0) turned by 2·arcsin √x_i: good is its 1. One use of
    A reads a number x_i, in superposition. Raises ValueError for other numbers.
    """

    numbers: Tensor

    def __post_init__(self) -> None:
        size, x = self.numbers.shape[-1], self.numbers
        if size < 2 or size & (size - 1):
            raise ValueError(f"{size} numbers are not a power of two: pad them with zeros")
        if not ((x >= 0) & (x <= 1)).all():
            raise ValueError("numbers must lie in [0, 1]: divide them by the largest")

    @property
    def prepare(self) -> Circuit:
        return _reading_circuit(self.numbers.shape[-1].bit_length() - 1)

    @property
    def angles(self) -> Tensor:
        x = self.numbers.double()
        return gray_walsh(2 * torch.atan2(x.sqrt(), (1 - x).sqrt()))

    @property
    def mark(self) -> tuple[tuple[Gate, ...], Tensor]:
        return (Gate("rz", (0,), 0),), torch.tensor([math.pi], dtype=torch.float64)

    def good(self, bits: Tensor) -> Tensor:
        return bits[..., 0] == 1

    @property
    def probability(self) -> Tensor:
        return self.numbers.double().mean(-1)

    mixed = 0.5


@functools.lru_cache(maxsize=16)
def _reading_circuit(n: int) -> Circuit:
    """H on the indices (qubits 1 … n), and RY of qubit 0 for each of them: 2^n CX."""
    spread = tuple(Gate("h", (q,)) for q in range(1, n + 1))
    return Circuit(n + 1, (*spread, *multiplexed("ry", n + 1, n, 0)), 2**n)


@dataclass(frozen=True, eq=False)
class BlockOracle:
    """The weight of one block among 2^n, as a share: a = w_block / Σw, of weights (R, 2^n).

    A loads the weights as amplitudes (`grover_rudolph`). Raises ValueError as `sum_tree`.
    """

    weights: Tensor
    block: int

    @property
    def prepare(self) -> Circuit:
        return loading_circuit(self.weights.shape[-1].bit_length() - 1)

    @property
    def angles(self) -> Tensor:
        return loading_values(tree_angles(sum_tree(self.weights)))

    @property
    def mark(self) -> tuple[tuple[Gate, ...], Tensor]:
        n = self.prepare.qubits
        return flip_gates(n), flip_angles(n, self.block)

    def good(self, bits: Tensor) -> Tensor:
        return (bits == (self.block >> torch.arange(bits.shape[-1]) & 1)).all(-1)

    @property
    def probability(self) -> Tensor:
        w = self.weights.double()
        return w[:, self.block] / w.sum(-1)

    @property
    def mixed(self) -> float:
        return 1 / self.weights.shape[-1]


@functools.lru_cache(maxsize=16)
def flip_gates(n: int) -> tuple[Gate, ...]:
    """Return gates that flip the sign of one basis state, up to a global phase; angles: `flip_angles`."""
    return tuple(gate for level in range(n) for gate in multiplexed("rz", n, level, 2**level - 1))


def flip_angles(n: int, state: int) -> Tensor:
    """Return the angles (2^n − 1,), float64, that choose the state.

    A phase π of |state⟩ is ±π/2 of the two settings of qubit 0, and a phase π/2 of the setting of the
    qubits above; that is ±π/4 of qubit 1's two, and so on.
    """
    levels = []
    for level in range(n):
        below = n - 1 - level
        phases = torch.zeros(1, 2**level, dtype=torch.float64)
        phases[0, state >> (below + 1)] = (1 if state >> below & 1 else -1) * math.pi / 2**below
        levels.append(gray_walsh(phases)[0])
    return torch.cat(levels)


@functools.lru_cache(maxsize=64)
def _amplified(prepare: Circuit, mark: tuple[Gate, ...], marks: int, power: int) -> Circuit:
    """Q^m A; parameters: those of A, their negatives, those of S_χ, those of S₀."""
    count, n = prepare.parameters, prepare.qubits
    undo = _shifted(prepare.gates[::-1], count)  # H, X and CX are their own inverses
    turn = (*_shifted(mark, 2 * count), *undo, *_shifted(flip_gates(n), 2 * count + marks), *prepare.gates)
    return Circuit(n, (*prepare.gates, *turn * power), 2 * count + marks + 2**n - 1)


def _shifted(gates: Sequence[Gate], by: int) -> tuple[Gate, ...]:
    """The same gates with other parameters."""
    return tuple(g if g.parameter is None else replace(g, parameter=g.parameter + by) for g in gates)


@dataclass(frozen=True, eq=False)
class GroverTask:
    """Q^m A|0⟩ for each row of an oracle, m = `power`: 2m + 1 uses of A."""

    oracle: Oracle
    power: int

    @property
    def rows(self) -> int:
        return len(self.oracle.angles)

    def circuit(self) -> Circuit:
        mark, angles = self.oracle.mark
        return _amplified(self.oracle.prepare, mark, len(angles), self.power)

    def values(self) -> Tensor:
        angles, marks = self.oracle.angles, self.oracle.mark[1]
        constant = torch.cat([marks, flip_angles(self.oracle.prepare.qubits, 0)])
        return torch.cat([angles, -angles, constant.expand(len(angles), -1)], 1)

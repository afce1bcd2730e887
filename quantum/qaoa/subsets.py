"""Choosing exactly k of n: the lowest xᵀQx over all bits x with k ones, and what looks for it.

A solver answers with a distribution over all subsets, so that what is drawn from it has probabilities that
are known: importance weights can be exact.
"""

import functools
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from qdreamer.configs.registry import Registry
from qdreamer.quantum.circuits.sampling import bits_to_index
from qdreamer.quantum.qaoa.ising import all_bits

MOST_CANDIDATES = 16  # n; 12,870 subsets of 8


class Subsets:
    """The N subsets of k of n, in the order of their indices."""

    def __init__(self, n: int, k: int) -> None:
        bits = all_bits(n)
        self.index = (bits.sum(1) == k).nonzero()[:, 0]  # (N,), bit i for the i-th
        self.bits = bits[self.index].double()  # (N, n)
        self._place = torch.zeros(2**n, dtype=torch.int64).scatter(0, self.index, torch.arange(len(self)))

    def __len__(self) -> int:
        return len(self.index)

    def number(self, bits: Tensor) -> Tensor:
        """Return the numbers (…,) of subsets given by their bits (…, n)."""
        return self._place[bits_to_index(bits)]

    def swapped(self, i: int, j: int) -> tuple[Tensor, Tensor]:
        """Return which subset each becomes when i and j change places, (N,), and where that is another."""
        differ = self.bits[:, i] != self.bits[:, j]
        return self._place[self.index ^ differ * (1 << i | 1 << j)], differ


@functools.lru_cache(maxsize=8)
def subsets(n: int, k: int) -> Subsets:
    """Return the subsets. Raises ValueError for more than 16 candidates, or fewer than k."""
    if not 1 <= k <= n <= MOST_CANDIDATES:
        raise ValueError(f"{k} of {n} cannot be chosen: at most {MOST_CANDIDATES} candidates are compared")
    return Subsets(n, k)


@dataclass(frozen=True, eq=False)
class SubsetProblem:
    """G problems of one shape: Q (G, n, n), symmetric, float64; k ones."""

    quadratic: Tensor
    k: int

    @property
    def n(self) -> int:
        return self.quadratic.shape[1]

    @property
    def subsets(self) -> Subsets:
        return subsets(self.n, self.k)

    @functools.cached_property
    def energies(self) -> Tensor:
        """xᵀQx of every subset, (G, N)."""
        bits = self.subsets.bits
        return ((bits @ self.quadratic) * bits).sum(-1)


class SubsetSolver(Protocol):
    """Prefers subsets of low energy."""

    @classmethod
    def make(cls, settings: Any) -> Self:
        """Make it of settings, of which it reads those that it goes by: `layers`."""
        ...

    def probabilities(self, problem: SubsetProblem) -> Tensor:
        """Return the distribution over subsets that it draws from, (G, N)."""
        ...


SUBSET_SOLVERS: Registry[type[SubsetSolver]] = Registry("subset_solvers", "qdreamer.quantum.qaoa")

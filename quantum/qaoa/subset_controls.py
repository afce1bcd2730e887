"""What QAOA within one weight must be compared with.

Those of `quantum.qaoa.controls` flip one bit at a time, which leaves the weight, and answer without
probabilities; these keep k and know theirs.
"""

from typing import Any, Self

import torch
from torch import Tensor

from qdreamer.quantum.qaoa.subsets import SUBSET_SOLVERS, SubsetProblem


class SubsetControl:
    """A solver without settings."""

    @classmethod
    def make(cls, settings: Any) -> Self:
        return cls()


@SUBSET_SOLVERS.register("random")
class RandomSubset(SubsetControl):
    """Every subset alike."""

    def probabilities(self, problem: SubsetProblem) -> Tensor:
        return torch.full_like(problem.energies, 1.0 / len(problem.subsets))


@SUBSET_SOLVERS.register("exact")
class BestSubset(SubsetControl):
    """The lowest of all energies."""

    def probabilities(self, problem: SubsetProblem) -> Tensor:
        return _certain(problem, problem.energies.argmin(1))


@SUBSET_SOLVERS.register("greedy")
class GreedySubset(SubsetControl):
    """One after the other, always the one that adds least energy."""

    def probabilities(self, problem: SubsetProblem) -> Tensor:
        chosen = torch.zeros(problem.quadratic.shape[:2], dtype=torch.float64)  # (G, n)
        alone = problem.quadratic.diagonal(dim1=1, dim2=2)
        for _ in range(problem.k):
            added = alone + 2 * (problem.quadratic @ chosen[..., None])[..., 0]
            chosen.scatter_(1, added.masked_fill(chosen > 0, torch.inf).argmin(1, keepdim=True), 1.0)
        return _certain(problem, problem.subsets.number(chosen))


@SUBSET_SOLVERS.register("annealing")
class AnnealedSubsets(SubsetControl):
    """Simulated annealing from a random subset: sweeps of swaps, geometric cooling (Kirkpatrick et al. 1983).

    What is followed is not a chain but the distribution of all chains.
    """

    def __init__(self, sweeps: int = 4) -> None:
        self._sweeps = sweeps

    def probabilities(self, problem: SubsetProblem) -> Tensor:
        energies, n = problem.energies, problem.n
        spread = energies.amax(1, keepdim=True) - energies.amin(1, keepdim=True)
        found = RandomSubset().probabilities(problem)
        swaps = [problem.subsets.swapped(i, j) for i in range(n) for j in range(i)]
        for share in torch.logspace(0, -2, self._sweeps, dtype=torch.float64).tolist():
            weights = torch.exp((energies.amin(1, keepdim=True) - energies) / (share * spread + 1e-300))
            for other, differ in swaps:
                accepted = (weights[:, other] / weights).clamp(max=1.0)
                leaving = found * accepted * differ
                found = found - leaving + leaving[:, other]
        return found


def _certain(problem: SubsetProblem, which: Tensor) -> Tensor:
    """Return probability 1 for one subset (G,) of each problem."""
    return torch.zeros_like(problem.energies).scatter(1, which[:, None], 1.0)

"""QAOA with the X mixer, which a penalty keeps near the weight: what the XY mixer replaces."""

from typing import Any, Self

import torch
from torch import Tensor

from qdreamer.quantum.qaoa.ansatz import IsingTask, angles
from qdreamer.quantum.qaoa.ising import from_qubo
from qdreamer.quantum.qaoa.simulator import Simulator
from qdreamer.quantum.qaoa.subsets import SUBSET_SOLVERS, SubsetProblem


@SUBSET_SOLVERS.register("penalty")
class Penalty:
    """Samples of QAOA states of xᵀQx + A(|x| − k)², with angles of `ansatz`; other weights are dropped."""

    def __init__(self, layers: int) -> None:
        self._layers = layers

    @classmethod
    def make(cls, settings: Any) -> Self:
        return cls(settings.layers)

    def tasks(self, problem: SubsetProblem) -> list[IsingTask]:
        """Return what to sample, for each problem; A is the largest |Q|."""
        ones = torch.ones(problem.n, problem.n, dtype=torch.float64)
        found = []
        for q in problem.quadratic:
            strength = q.abs().max()
            penalty = strength * (ones - 2 * problem.k * torch.eye(problem.n, dtype=torch.float64))
            ising = from_qubo(q + penalty)
            found.append(IsingTask(ising, angles(ising, self._layers)))
        return found

    def kept(self, problem: SubsetProblem) -> Tensor:
        """Return the probability of each subset of the right weight before others are dropped, (G, N)."""
        rows = [
            Simulator(task.ising, torch.float64).probabilities(task.angles) for task in self.tasks(problem)
        ]
        return torch.cat(rows)[:, problem.subsets.index]

    def probabilities(self, problem: SubsetProblem) -> Tensor:
        found = self.kept(problem)
        return found / found.sum(1, keepdim=True)

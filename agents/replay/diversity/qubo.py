"""Batches by quadratic binary optimization: in groups of candidates, k that matter much and are little alike.

    maximise Σ_{i ∈ S} priority_i − λ Σ_{i < j ∈ S} likeness_ij   over all S with |S| = k

Whatever solves it (`quantum.qaoa.subsets`) says with which probability it takes each subset. So it is known
with which each candidate is taken, and weights are exact.
"""

from typing import Annotated, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from qdreamer.agents.replay.diversity.features import Floats, likeness
from qdreamer.agents.replay.diversity.selection import SELECTIONS, RandomSelection
from qdreamer.configs.schema import Float, Int, settings
from qdreamer.quantum.circuits.sampling import draw
from qdreamer.quantum.qaoa.subsets import MOST_CANDIDATES, SUBSET_SOLVERS, SubsetProblem, SubsetSolver
from qdreamer.quantum.qaoa.xy import ANGLES


@settings
class QuboConfig:
    """Settings of `replay.diverse=qubo`."""

    solver: Annotated[str, SUBSET_SOLVERS] = "xy"
    layers: Int = Field(default=3, ge=1, le=len(ANGLES))  # of QAOA
    keep: Int = Field(default=4, ge=1, le=MOST_CANDIDATES)  # of each group
    similarity: Float = Field(default=1.0, ge=0.0)  # λ
    floor: Float = Field(default=0.1, ge=0.0, le=1.0)  # share of uniformly drawn subsets


@SELECTIONS.register("qubo")
class Qubo(RandomSelection):
    """Cuts the candidates into groups, and takes a subset of each.

    A candidate that is taken weighs k/(m·π), π its probability to be taken, m how many of its group can be
    taken at all. That is all of them but for solvers that always answer the same, without a floor.

    Args:
        times, seed: see `RandomSelection`. keep: k; the last group is smaller where a batch is no multiple.
        similarity: λ. floor: share of uniformly drawn subsets; no weight exceeds 1/floor.
    """

    def __init__(
        self, times: int, seed: int, solver: SubsetSolver, keep: int, similarity: float, floor: float
    ) -> None:
        super().__init__(times, seed)
        self._solver, self._keep, self._similarity, self._floor = solver, keep, similarity, floor

    @classmethod
    def make(cls, config: Any, seed: int) -> Self:
        """Raises ValueError for groups that are too large."""
        times, qubo = config.candidates, config.qubo
        if times * qubo.keep > MOST_CANDIDATES:
            raise ValueError(
                f"replay.candidates={times} for replay.qubo.keep={qubo.keep} are {times * qubo.keep} "
                f"candidates in a group, whose subsets are all listed: use fewer, at most {MOST_CANDIDATES}"
            )
        solver = SUBSET_SOLVERS[qubo.solver].part.make(qubo)
        return cls(times, seed, solver, qubo.keep, qubo.similarity, qubo.floor)

    def select(
        self, stoch: NDArray[np.uint8], known: NDArray[np.bool_], weights: NDArray[np.float32], count: int
    ) -> tuple[NDArray[np.int64], Floats]:
        alike, priorities = likeness(stoch, known), weights.min() / weights.astype(np.float64)
        rest, order = count % self._keep, np.arange(len(stoch))
        cut = self._times * (count - rest)
        taken, factors = [], []
        for k, part in ((self._keep, order[:cut]), (rest, order[cut:])):
            if not len(part):
                continue
            groups = part.reshape(-1, self._times * k)  # (G, n)
            problem = pose(
                priorities[groups], alike[groups[:, :, None], groups[:, None]], self._similarity, k
            )
            chosen, factor = self._take(problem)
            taken.append(groups[chosen])
            factors.append(factor[chosen])
        return np.concatenate(taken), np.concatenate(factors)

    def _take(self, problem: SubsetProblem) -> tuple[NDArray[np.bool_], Floats]:
        """Draw a subset of each group, (G, n); return also the factors of those that are taken, (G, n)."""
        found, bits = self._solver.probabilities(problem), problem.subsets.bits
        found = (1 - self._floor) * found + self._floor / len(bits)
        included = found @ bits
        source = torch.Generator().manual_seed(int(self._random.integers(2**63)))
        chosen = bits[draw(found, 1, source)[:, 0]] > 0
        possible = (included > 0).sum(1, keepdim=True)
        return chosen.numpy(), (problem.k / (possible * included)).numpy()


def pose(priorities: Floats, alike: Floats, similarity: float, k: int) -> SubsetProblem:
    """Return the problems of groups with priorities (G, n) and likenesses (G, n, n), to be minimised."""
    quadratic = torch.from_numpy(alike) * (similarity / 2)
    quadratic.diagonal(dim1=1, dim2=2).copy_(-torch.from_numpy(priorities))
    return SubsetProblem(quadratic, k)

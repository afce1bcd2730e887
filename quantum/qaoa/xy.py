"""QAOA within one Hamming weight: the XY mixer moves ones around a ring and never makes or loses one.

p times exp(−iγE), then the mixer: the product over the ring's edges of exp(iβ(XX + YY)/2), even edges
first (Hadfield et al. 1709.03489; Wang et al. 1904.09314). With M = −Σ(XX + YY)/2 the sign is that of
`quantum.qaoa.ansatz`. The state begins in the ground state of M among those of weight k: a Slater
determinant of the k slowest waves on the ring, for which `quantum.circuits.slater` has the circuit.

Simulated here are the C(n, k) amplitudes of that weight, of any number of problems at once.
"""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from qdreamer.quantum.circuits.circuit import Circuit, Gate
from qdreamer.quantum.circuits.slater import givens_angles, slater_circuit
from qdreamer.quantum.qaoa.ising import from_qubo
from qdreamer.quantum.qaoa.subsets import SUBSET_SOLVERS, SubsetProblem, subsets

# γ in units of one over the standard deviation of a problem's energies, and β, for p = 1 … 3: the best on
# average over 60 random groups (`python -m benchmarks.diverse_batches --fit`).
ANGLES: dict[int, tuple[tuple[float, ...], tuple[float, ...]]] = {
    1: ((1.132,), (0.499,)),
    2: ((0.717, 1.300), (0.564, 0.341)),
    3: ((0.543, 0.985, 1.593), (0.599, 0.530, 0.304)),
}


def ring(n: int) -> Iterator[tuple[int, int]]:
    """Yield the edges of a ring of n, those that begin at even places first."""
    places = range(n if n > 2 else n - 1)
    for i in (*places[::2], *places[1::2]):
        yield i, (i + 1) % n


def waves(n: int, k: int) -> Tensor:
    """Return the k slowest waves on a ring of n, orthonormal columns (n, k).

    By the Jordan–Wigner transform a one that goes round passes k − 1 others: for even k the waves change
    their sign once round.
    """
    numbers = torch.arange(k + 1, dtype=torch.float64)[1 - k % 2 :: 2] / 2  # 0, 1, … or ½, 3/2, …
    phase = 2 * math.pi / n * torch.arange(n, dtype=torch.float64)[:, None] * numbers
    both = torch.stack([torch.cos(phase), torch.sin(phase)], -1).flatten(1) * math.sqrt(2 / n)
    return torch.cat([both[:, :1] / math.sqrt(2), both[:, 2:]], 1)[:, :k] if k % 2 else both


@functools.lru_cache(maxsize=8)
def slowest(n: int, k: int) -> Tensor:
    """Return the amplitudes (N,) of the mixer's ground state, all of them positive: det V_S of the waves."""
    members = subsets(n, k).bits.nonzero()[:, 1].view(-1, k)
    return torch.linalg.det(waves(n, k)[members]).abs()


@functools.lru_cache(maxsize=8)
def swaps(n: int, k: int) -> list[tuple[Tensor, Tensor]]:
    """Return what each edge of the ring exchanges, (N,), and where it does, in the order of the mixer."""
    return [subsets(n, k).swapped(i, j) for i, j in ring(n)]


@dataclass(frozen=True, eq=False)
class XYAngles:
    """γ (G, p) of each problem and β (p,), which all share; float64."""

    gamma: Tensor
    beta: Tensor


def fixed_angles(problem: SubsetProblem, layers: int) -> XYAngles:
    """Return `ANGLES` in the scale of each problem; γ = 0 where all energies are the same.

    Raises ValueError for numbers of layers that there are no angles for.
    """
    if layers not in ANGLES:
        raise ValueError(f"angles of the XY mixer exist for layers=1 to {len(ANGLES)}, not {layers}")
    gamma, beta = torch.tensor(ANGLES[layers], dtype=torch.float64)
    deviation = problem.energies.std(1, keepdim=True, correction=0)
    rounding = 1e-12 * problem.quadratic.abs().amax((1, 2))[:, None]
    return XYAngles(gamma * torch.where(deviation > rounding, 1 / deviation, 0.0), beta)


def amplitudes(problem: SubsetProblem, angles: XYAngles) -> Tensor:
    """Return ψ (G, N), complex128, but for a phase of each problem."""
    centred = problem.energies - problem.energies.mean(1, keepdim=True)
    psi = slowest(problem.n, problem.k).to(torch.complex128)
    for gamma, beta in zip(angles.gamma.t(), angles.beta, strict=True):
        psi = psi * torch.polar(torch.ones_like(centred), -gamma[:, None] * centred)
        stays, moves = torch.cos(beta), 1j * torch.sin(beta)
        for other, differ in swaps(problem.n, problem.k):
            psi = psi * torch.where(differ, stays, 1.0) + psi[:, other] * (moves * differ)
    return psi


@SUBSET_SOLVERS.register("xy")
class XY:
    """Samples of QAOA states of k ones, with fixed angles."""

    def __init__(self, layers: int) -> None:
        self._layers = layers

    @classmethod
    def make(cls, settings: Any) -> Self:
        return cls(settings.layers)

    def probabilities(self, problem: SubsetProblem) -> Tensor:
        return amplitudes(problem, fixed_angles(problem, self._layers)).abs().square()


@functools.lru_cache(maxsize=32)
def xy_circuit(n: int, k: int, layers: int) -> Circuit:
    """Build the Slater determinant, then layers of RZZ on all pairs, RZ, and the XY gates of the ring.

    Angles, in order: the determinant's; π/2 and −π/2; for each layer the couplings', the fields' and one for
    the mixer. An XY gate exp(−iθ(XX + YY)/4) takes two CX: RX(π/2) of both and CX turn XX into X of the
    first, YY into Z of the second.
    """
    begin = slater_circuit(n, k)
    gates, free = list(begin.gates), begin.parameters + 2
    quarter, back = free - 2, free - 1
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
    for _ in range(layers):
        gates += [Gate("rzz", pair, free + e) for e, pair in enumerate(pairs)]
        free += len(pairs)
        gates += [Gate("rz", (i,), free + i) for i in range(n)]
        free += n
        for i, j in ring(n):
            gates += [Gate("rx", (q,), quarter) for q in (i, j)]
            gates += [Gate("cx", (i, j)), Gate("rx", (i,), free), Gate("rz", (j,), free), Gate("cx", (i, j))]
            gates += [Gate("rx", (q,), back) for q in (i, j)]
        free += 1
    return Circuit(n, tuple(gates), free)


@dataclass(frozen=True, eq=False)
class XYTask:
    """Sample the states of G problems, one row for each."""

    problem: SubsetProblem
    angles: XYAngles

    @property
    def rows(self) -> int:
        return len(self.angles.gamma)

    def circuit(self) -> Circuit:
        return xy_circuit(self.problem.n, self.problem.k, len(self.angles.beta))

    def values(self) -> Tensor:
        """Return angles (G, P) for `xy_circuit`: RZZ(2γJ), RZ(2γh), XY(−2β)."""
        n, k, rows = self.problem.n, self.problem.k, self.rows
        upper = torch.ones(n, n, dtype=torch.bool).triu(1)
        coefficients = torch.stack(
            [torch.cat([i.J[upper], i.h]) for i in map(from_qubo, self.problem.quadratic)]
        )
        phases = 2 * self.angles.gamma[:, :, None] * coefficients[:, None]  # (G, p, E + n)
        # Half of the gate's angle goes to each of its two rotations.
        mixers = -self.angles.beta.expand(rows, -1)[..., None]
        quarter = torch.tensor([math.pi / 2, -math.pi / 2], dtype=torch.float64)
        begin = torch.cat([givens_angles(waves(n, k)), quarter]).expand(rows, -1)
        return torch.cat([begin, torch.cat([phases, mixers], -1).flatten(1)], 1)

    def drawn(self, bits: Tensor) -> Tensor:
        """Return the numbers of measured subsets of bits (S, n); noise that changed the weight is dropped."""
        return self.problem.subsets.number(bits[bits.sum(-1) == self.problem.k])

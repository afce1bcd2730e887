"""What QAOA must be compared with: solvers that run no circuit, and answer at once.

`random` answers what sampling alone finds, `greedy` and `annealing` what minutes of programming find,
`exact` what there is to find, `separable` what is found without couplings, and `scalar` what one multiplier
for all blocks would do.
"""

from typing import Self

import torch
from torch import Tensor

from qdreamer.quantum.circuits.sampling import index_to_bits
from qdreamer.quantum.qaoa.ising import Ising, Solution, all_bits, best_of, energies, normalized
from qdreamer.quantum.qaoa.solver import SOLVERS, SolverSetup

MAX_EXACT = 20  # qubits


class ClassicalSolver:
    """A solver that answers at once and needs nothing to be made."""

    circuits = False
    max_qubits: int | None = None

    @classmethod
    def make(cls, setup: SolverSetup) -> Self:
        return cls()


@SOLVERS.register("exact")
class Exact(ClassicalSolver):
    """All 2^n energies; n ≤ 20."""

    max_qubits: int | None = MAX_EXACT

    def solve(self, ising: Ising, shots: int, generator: torch.Generator) -> Solution:
        if ising.qubits > MAX_EXACT:
            raise ValueError(f"2^{ising.qubits} energies are too many: exact takes n ≤ {MAX_EXACT}")
        lowest = energies(normalized(ising)[0], torch.float64).argmin()
        return best_of(ising, index_to_bits(lowest, ising.qubits)[None])


@SOLVERS.register("random")
class Random(ClassicalSolver):
    """Uniform bits."""

    def solve(self, ising: Ising, shots: int, generator: torch.Generator) -> Solution:
        return best_of(ising, random_bits(shots, ising.qubits, generator))


@SOLVERS.register("greedy")
class Greedy(ClassicalSolver):
    """Steepest one-flip descents from random bits, all of them side by side; `shots` does not matter."""

    def __init__(self, restarts: int = 20) -> None:
        self._restarts = restarts

    def solve(self, ising: Ising, shots: int, generator: torch.Generator) -> Solution:
        z = 1.0 - 2.0 * random_bits(self._restarts, ising.qubits, generator).double()  # (R, n)
        couplings = ising.J + ising.J.t()
        rows = torch.arange(len(z))
        while True:
            change = -2 * z * (ising.h + z @ couplings)  # (R, n), of flipping each spin
            best, which = change.min(1)
            # A change that is only rounding would go back and forth.
            falls = best < -1e-12 * change.abs().amax(1)
            if not falls.any():
                return best_of(ising, ((1 - z) / 2).to(torch.uint8))
            z[rows, which] = torch.where(falls, -1.0, 1.0) * z[rows, which]


@SOLVERS.register("annealing")
class Annealing(ClassicalSolver):
    """Simulated annealing: `shots` chains side by side, geometric cooling (Kirkpatrick et al. 1983)."""

    def __init__(self, sweeps: int = 20) -> None:
        self._sweeps = sweeps

    def solve(self, ising: Ising, shots: int, generator: torch.Generator) -> Solution:
        n = ising.qubits
        z = 1.0 - 2.0 * random_bits(shots, n, generator).double()  # (S, n)
        couplings = ising.J + ising.J.t()
        hot = float((ising.h.abs() + couplings.abs().sum(1)).max()) or 1.0  # no change is larger than 2·hot
        cooling = torch.logspace(0, -2, self._sweeps, dtype=torch.float64) * hot
        for temperature in cooling.tolist():
            coins = torch.rand(n, shots, dtype=torch.float64, generator=generator)
            for i in range(n):
                change = -2 * z[:, i] * (ising.h[i] + z @ couplings[i])
                flip = coins[i] < torch.exp(-change / temperature)
                z[:, i] = torch.where(flip, -z[:, i], z[:, i])
        return best_of(ising, ((1 - z) / 2).to(torch.uint8))


@SOLVERS.register("separable")
class Separable(ClassicalSolver):
    """Every spin by its own field: the best bits if there were no couplings.

    Of multipliers with two levels these are the best of each block while all others stay halfway between
    their levels.
    """

    def solve(self, ising: Ising, shots: int, generator: torch.Generator) -> Solution:
        return best_of(ising, (ising.h > 0).to(torch.uint8)[None])  # z = 1 − 2b


@SOLVERS.register("scalar")
class Scalar(ClassicalSolver):
    """One multiplier for all blocks: with k bits a block, block m's bits m·k … m·k + k − 1 are the same
    pattern for all m, so there are 2^k candidates, all of them tried."""

    def __init__(self, bits_per_block: int = 1) -> None:
        self._bits = bits_per_block

    @classmethod
    def make(cls, setup: SolverSetup) -> Self:
        return cls(setup.bits_per_block)

    def solve(self, ising: Ising, shots: int, generator: torch.Generator) -> Solution:
        blocks, rest = divmod(ising.qubits, self._bits)
        if rest:
            raise ValueError(f"{ising.qubits} bits are not blocks of {self._bits}")
        return best_of(ising, all_bits(self._bits).repeat(1, blocks))


def random_bits(rows: int, n: int, generator: torch.Generator) -> Tensor:
    """Draw uniform bits (rows, n), uint8."""
    return torch.randint(0, 2, (rows, n), generator=generator, dtype=torch.uint8)

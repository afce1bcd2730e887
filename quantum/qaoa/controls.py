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


class Blockwise(ClassicalSolver):
    """A solver that sees blocks: with k bits each, block m has the bits m·k … m·k + k − 1."""

    def __init__(self, bits_per_block: int = 1) -> None:
        self._bits = bits_per_block

    @classmethod
    def make(cls, setup: SolverSetup) -> Self:
        return cls(setup.bits_per_block)

    def _blocks(self, ising: Ising) -> int:
        blocks, rest = divmod(ising.qubits, self._bits)
        if rest:
            raise ValueError(f"{ising.qubits} bits are not blocks of {self._bits}")
        return blocks


@SOLVERS.register("separable")
class Separable(Blockwise):
    """Every block by itself: the best of its patterns if no block were coupled to another.

    Of multipliers these are the best while all other blocks stay at the mean of their levels.
    """

    def solve(self, ising: Ising, shots: int, generator: torch.Generator) -> Solution:
        blocks, patterns = self._blocks(ising), all_bits(self._bits)
        z = 1.0 - 2.0 * patterns.double()  # (2^K, K)
        fields = ising.h.double().view(blocks, self._bits)
        within = (
            ising.J.double().view(blocks, self._bits, blocks, self._bits).diagonal(dim1=0, dim2=2)
        )  # (K, K, M)
        alone = z @ fields.t() + torch.einsum("pk,klm,pl->pm", z, within, z)  # (2^K, M)
        return best_of(ising, patterns[alone.argmin(0)].flatten()[None])


@SOLVERS.register("scalar")
class Scalar(Blockwise):
    """One multiplier for all blocks: the same pattern of bits in each, so there are 2^k candidates, all of
    them tried."""

    def solve(self, ising: Ising, shots: int, generator: torch.Generator) -> Solution:
        return best_of(ising, all_bits(self._bits).repeat(1, self._blocks(ising)))


def random_bits(rows: int, n: int, generator: torch.Generator) -> Tensor:
    """Draw uniform bits (rows, n), uint8."""
    return torch.randint(0, 2, (rows, n), generator=generator, dtype=torch.uint8)

"""Low energies of an Ising problem: QAOA, and what it must be compared with, behind one interface.

`random` answers what sampling alone finds, `greedy` and `annealing` what minutes of programming find,
`exact` what there is to find, and `scalar` what one multiplier for all blocks would do.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, Self, get_args

import torch
from torch import Tensor

from qdreamer.configs.registry import Registry
from qdreamer.quantum.circuits.backend import Backend, Measurement, Usage
from qdreamer.quantum.config import QuantumConfig
from qdreamer.quantum.qaoa.angles import Angles, angles, warm_start
from qdreamer.quantum.qaoa.ising import Ising, all_bits, energies, energy, index_to_bits
from qdreamer.quantum.qaoa.qaoa import Simulator, optimized
from qdreamer.quantum.qaoa.readout import mean_energy
from qdreamer.quantum.qaoa.sparsify import Fit, fit_to_device, sparsified
from qdreamer.quantum.qaoa.tasks import IsingTask

AngleChoice = Literal["fixed", "ramp", "warm", "optimized"]
MAX_EXACT = 20  # qubits
CVAR = 0.1  # share of the samples, the lowest ones


@dataclass(frozen=True, eq=False)
class Solution:
    """The best bits (n,), uint8, their energy, and statistics of the S samples they came from."""

    bits: Tensor
    energy: float
    mean: float  # ⟨E⟩ of the samples, readout errors undone where they are known
    cvar: float  # mean of the lowest tenth of the samples
    samples: int
    usage: Usage


class SolverSetup(NamedTuple):
    """What solvers are made from; each takes what it needs."""

    backend: Backend  # of solvers that run circuits
    quantum: QuantumConfig
    layers: int = 3  # of QAOA
    angles: AngleChoice = "fixed"
    bits_per_block: int = 1


class Solver(Protocol):
    """Looks for low energies."""

    circuits: bool
    """True for a `CircuitSolver`, whose work a job queue runs."""

    max_qubits: int | None
    """The largest problems that it takes; None for any."""

    @classmethod
    def make(cls, setup: SolverSetup) -> "Solver": ...

    def solve(self, ising: Ising, shots: int, generator: torch.Generator) -> Solution:
        """The best of about `shots` samples. Raises ValueError for problems it cannot take."""
        ...


class CircuitSolver(Solver, Protocol):
    """A solver whose work is a circuit's."""

    def task(self, ising: Ising, generator: torch.Generator) -> IsingTask:
        """What to submit for the problem, by hand or through a job queue."""
        ...

    def finish(self, ising: Ising, measurement: Measurement) -> Solution:
        """The solution from the task's samples, judged by the whole problem."""
        ...

    def fit(self, ising: Ising) -> Fit:
        """How problems of this size are cut to the backend's device. Raises DeviceLimitError."""
        ...


SOLVERS: Registry[type[Solver]] = Registry("solvers", "qdreamer.quantum.qaoa")


class ClassicalSolver:
    """A solver that answers at once and needs nothing to be made."""

    circuits = False
    max_qubits: int | None = None

    @classmethod
    def make(cls, setup: SolverSetup) -> Self:
        return cls()


def cvar(values: Tensor, share: float = CVAR) -> float:
    """Mean of the lowest `share` of energies (S,), at least one (Barkoutsos et al. 1907.04769)."""
    count = max(1, math.ceil(share * len(values)))
    return float(values.topk(count, largest=False).values.mean())


def best_of(ising: Ising, bits: Tensor, mean: float | None = None, usage: Usage | None = None) -> Solution:
    """The solution among sampled bits (S, n)."""
    values = energy(ising, bits)
    lowest, which = values.min(0)
    mean = float(values.mean()) if mean is None else mean
    return Solution(bits[which], float(lowest), mean, cvar(values), len(bits), usage or Usage())


def approximation_ratio(table: Tensor, value: float) -> float:
    """(Emax − E)/(Emax − Emin) with all energies (2^n,) in `table`; 1 where all are equal."""
    low, high = float(table.min()), float(table.max())
    return 1.0 if high <= low else (high - value) / (high - low)


@SOLVERS.register("qaoa")
class QAOA:
    """Samples of QAOA states from a backend.

    `angles`: fixed (infinite-size SK, rescaled; no loop), ramp, warm (fixed angles from
    the best of greedy descents), optimized (`steps` steps from the fixed ones on the in-process
    simulator). With a backend that estimates circuits (a device), problems are cut to what it carries:
    see `quantum.qaoa.sparsify`.
    """

    circuits = True
    max_qubits: int | None = None

    def __init__(
        self,
        backend: Backend,
        layers: int,
        angles: AngleChoice = "fixed",
        steps: int = 5,
        limited: bool = False,
        min_fidelity: float = 0.5,
        force: bool = False,
    ) -> None:
        if angles not in get_args(AngleChoice):
            raise ValueError(f"angles={angles} is not one of {', '.join(get_args(AngleChoice))}")
        self._backend, self._layers, self._angles, self._steps = backend, layers, angles, steps
        self._limited, self._min_fidelity, self._force = limited, min_fidelity, force
        self._fits: dict[int, Fit] = {}  # by qubits

    @classmethod
    def make(cls, setup: SolverSetup) -> Self:
        quantum = setup.quantum
        return cls(
            setup.backend,
            setup.layers,
            setup.angles,
            limited=quantum.fits_problems,
            min_fidelity=quantum.min_fidelity,
            force=quantum.force,
        )

    def solve(self, ising: Ising, shots: int, generator: torch.Generator) -> Solution:
        task = self.task(ising, generator)
        return self.finish(ising, self._backend.submit([task], shots, new_seed(generator)).result())

    def task(self, ising: Ising, generator: torch.Generator) -> IsingTask:
        """What to submit for the problem, by hand or through a job queue."""
        fit = self.fit(ising)
        reduced = sparsified(ising, fit.share)
        return IsingTask(reduced, self._choose(reduced, fit.layers, generator))

    def finish(self, ising: Ising, measurement: Measurement) -> Solution:
        """The solution from the task's samples, judged by the whole problem."""
        bits, confusion = measurement.bits[0], measurement.confusion[0]
        mean = None if confusion is None else float(mean_energy(ising, bits, confusion).mean())
        return best_of(ising, bits.flatten(0, 1), mean, measurement.usage)

    def fit(self, ising: Ising) -> Fit:
        """How problems of this size are cut; decided on the first one. Raises DeviceLimitError."""
        estimate = getattr(self._backend, "estimate", None)
        if not self._limited or estimate is None:
            return Fit(self._layers, 1.0, None)
        n = ising.qubits
        if n not in self._fits:
            self._fits[n] = fit_to_device(
                ising,
                self._layers,
                lambda problem, layers: estimate(IsingTask(problem, angles(problem, layers)).circuit()),
                self._min_fidelity,
                self._force,
            )
        return self._fits[n]

    def _choose(self, ising: Ising, layers: int, generator: torch.Generator) -> Angles:
        if self._angles == "warm":
            start = Greedy().solve(ising, 0, generator).bits
            return angles(ising, layers, "fixed", warm_start(start))
        if self._angles == "optimized":
            return optimized(Simulator(ising), angles(ising, layers), self._steps)
        return angles(ising, layers, self._angles)


@SOLVERS.register("exact")
class Exact(ClassicalSolver):
    """All 2^n energies; n ≤ 20."""

    max_qubits: int | None = MAX_EXACT

    def solve(self, ising: Ising, shots: int, generator: torch.Generator) -> Solution:
        if ising.qubits > MAX_EXACT:
            raise ValueError(f"2^{ising.qubits} energies are too many: exact takes n ≤ {MAX_EXACT}")
        table = energies(ising)
        bits = index_to_bits(table.argmin(), ising.qubits)
        lowest = float(energy(ising, bits))
        return Solution(bits, lowest, lowest, lowest, 1, Usage())


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
            falls = best < -1e-12 * (1 + change.abs().amax(1))
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
    """Uniform bits (rows, n), uint8."""
    return torch.randint(0, 2, (rows, n), generator=generator, dtype=torch.uint8)


def new_seed(generator: torch.Generator) -> int:
    """A seed for one job."""
    return int(torch.randint(0, 2**31 - 1000, (), generator=generator))

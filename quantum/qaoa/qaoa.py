"""QAOA as a solver: samples of its states from a backend (Farhi et al. 2014)."""

from typing import Self, get_args

import torch
from torch import Tensor

from qdreamer.quantum.circuits.backend import Backend, Measurement, device_estimate
from qdreamer.quantum.circuits.fidelity import CircuitEstimate
from qdreamer.quantum.circuits.readout import inverse
from qdreamer.quantum.circuits.sampling import new_seed
from qdreamer.quantum.config import QuantumConfig
from qdreamer.quantum.qaoa.ansatz import Angles, IsingTask, angles, qaoa_circuit, warm_start
from qdreamer.quantum.qaoa.controls import Greedy
from qdreamer.quantum.qaoa.ising import Ising, Solution, best_of, energy, energy_of_spins
from qdreamer.quantum.qaoa.simulator import Simulator
from qdreamer.quantum.qaoa.solver import SOLVERS, AngleChoice, SolverSetup
from qdreamer.quantum.qaoa.sparsify import Fit, fit_to_device, sparsified
from qdreamer.quantum.qaoa.variational import optimized


@SOLVERS.register("qaoa")
class QAOA:
    """Samples of QAOA states from a backend.

    `angles`: fixed (infinite-size SK, rescaled; no loop), ramp, warm (fixed angles from
    the best of greedy descents), optimized (`steps` steps from the fixed ones on the in-process
    simulator). With `limits`, problems are cut to what the backend's device carries: see
    `quantum.qaoa.sparsify`.
    """

    circuits = True
    max_qubits: int | None = None

    def __init__(
        self,
        backend: Backend,
        layers: int,
        angles: AngleChoice = "fixed",
        steps: int = 5,
        limits: QuantumConfig | None = None,
    ) -> None:
        if angles not in get_args(AngleChoice):
            raise ValueError(f"angles={angles} is not one of {', '.join(get_args(AngleChoice))}")
        self._backend, self._layers, self._angles, self._steps = backend, layers, angles, steps
        self._limits = limits
        self._fits: dict[int, Fit] = {}  # by qubits

    @classmethod
    def make(cls, setup: SolverSetup) -> Self:
        limits = setup.quantum if setup.quantum.fits_problems else None
        return cls(setup.backend, setup.layers, setup.angles, limits=limits)

    def solve(self, ising: Ising, shots: int, generator: torch.Generator) -> Solution:
        task = self.task(ising, generator)
        return self.finish(ising, self._backend.submit([task], shots, new_seed(generator)).result())

    def task(self, ising: Ising, generator: torch.Generator) -> IsingTask:
        fit = self.fit(ising)
        if fit.share < 1.0:
            ising = sparsified(ising, fit.share)
        return IsingTask(ising, self._choose(ising, fit.layers, generator))

    def finish(self, ising: Ising, measurement: Measurement) -> Solution:
        bits, confusion = measurement.bits[0], measurement.confusion[0]
        mean = None if confusion is None else float(mean_energy(ising, bits, confusion).mean())
        return best_of(ising, bits.flatten(0, 1), mean, measurement.usage)

    def fit(self, ising: Ising) -> Fit:
        """Return how problems of this size are cut; decided on the first one. Raises DeviceLimitError."""
        if self._limits is None:
            return Fit(self._layers, 1.0, None)
        n = ising.qubits
        if n not in self._fits:
            least, force = self._limits.min_fidelity, self._limits.force
            self._fits[n] = fit_to_device(ising, self._layers, self._estimate, least, force)
        return self._fits[n]

    def _estimate(self, problem: Ising, layers: int) -> CircuitEstimate | None:
        circuit = qaoa_circuit(problem.qubits, problem.edges, layers, warm=False)
        return device_estimate(self._backend, circuit)

    def _choose(self, ising: Ising, layers: int, generator: torch.Generator) -> Angles:
        if self._angles == "warm":
            start = Greedy().solve(ising, 0, generator).bits
            return angles(ising, layers, "fixed", warm_start(start))
        if self._angles == "optimized":
            return optimized(Simulator(ising), angles(ising, layers), self._steps)
        return angles(ising, layers, self._angles)


def mean_energy(ising: Ising, bits: Tensor, confusion: Tensor | None) -> Tensor:
    """Return ⟨E⟩ (R,) from bits (R, S, n): with z_i replaced by Σ_p (−1)^p A_i⁻¹[p, b_i] if A is known."""
    if confusion is None:
        return energy(ising, bits).mean(-1)
    inverted = inverse(confusion)
    spins = inverted[:, 0] - inverted[:, 1]  # (n, 2), by what was read
    return energy_of_spins(ising, torch.where(bits == 0, spins[:, 0], spins[:, 1])).mean(-1)

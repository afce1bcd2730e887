"""The circuit of the quantum approximate optimization algorithm and its angles, without a variational loop.

Conventions (Farhi et al. 2014): p times exp(−iγE), then the mixer exp(−iβΣ_i M_i) with M_i = −X_i, so
that positive γ and β search for low E. With a warm start M_i = −(sin θ_i X + cos θ_i Z), whose ground
state is the initial state (Egger et al. 2009.10095).
"""

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from qdreamer.quantum.circuits.circuit import Circuit, Gate
from qdreamer.quantum.qaoa.ising import Ising, normalized

# Optimal angles of the Sherrington–Kirkpatrick model at infinite size, p = 1 … 8: γ, then β
# (Farhi et al. 1910.08472; Basso et al. 2110.14206, table 4; p = 3 with a digit more).
SK: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...] = (
    ((0.5,), (math.pi / 8,)),
    ((0.3817, 0.6655), (0.4960, 0.2690)),
    ((0.3299, 0.5689, 0.6409), (0.5500, 0.3675, 0.2109)),
    ((0.2949, 0.5144, 0.5586, 0.6429), (0.5710, 0.4176, 0.3028, 0.1729)),
    ((0.2705, 0.4804, 0.5074, 0.5646, 0.6397), (0.5899, 0.4492, 0.3559, 0.2643, 0.1486)),
    ((0.2528, 0.4531, 0.4750, 0.5146, 0.5650, 0.6392), (0.6004, 0.4670, 0.3880, 0.3176, 0.2325, 0.1291)),
    (
        (0.2383, 0.4327, 0.4516, 0.4830, 0.5147, 0.5686, 0.6393),
        (0.6085, 0.4810, 0.4090, 0.3534, 0.2857, 0.2080, 0.1146),
    ),
    (
        (0.2268, 0.4162, 0.4332, 0.4608, 0.4818, 0.5179, 0.5717, 0.6393),
        (0.6151, 0.4906, 0.4244, 0.3780, 0.3224, 0.2606, 0.1884, 0.1030),
    ),
)
RAMP = 1.0  # slope of the linear ramp in the scale of the SK angles; the best for p = 1 … 20 is 1.0 to 1.2


@dataclass(frozen=True, eq=False)
class Angles:
    """R sets of angles: γ and β (R, p), float64; warm: θ (n,) of the initial state, or None for |+⟩."""

    gamma: Tensor
    beta: Tensor
    warm: Tensor | None = None

    @property
    def layers(self) -> int:
        return self.gamma.shape[1]


def scale(ising: Ising) -> float:
    """Return what angles for unit-variance SK couplings J/√n are multiplied by: √((n−1)/2)/√(Σh² + ΣJ²).

    0 where all fields and couplings are 0.
    """
    unit, power = normalized(ising)  # squares of 1e-160 would be 0
    strength = math.sqrt(float((unit.h**2).sum() + (unit.J**2).sum()))
    # A single qubit has no SK counterpart; two are the least.
    return math.sqrt(max(ising.qubits - 1, 1) / 2) / strength / power if strength > 0 else 0.0


def angles(ising: Ising, layers: int, kind: str = "fixed", warm: Tensor | None = None) -> Angles:
    """Return one set of angles: `fixed` (SK at infinite size, rescaled) or `ramp` (linear).

    Raises ValueError for an unknown kind, or for more layers than there are fixed angles.
    """
    if kind == "fixed":
        if not 1 <= layers <= len(SK):
            raise ValueError(
                f"fixed angles exist for p_layers=1 to {len(SK)}, not {layers}: use angles=ramp beyond"
            )
        gamma, beta = SK[layers - 1]
    elif kind == "ramp":
        times = [(k + 0.5) / layers for k in range(layers)]
        gamma, beta = tuple(RAMP * t for t in times), tuple(RAMP * (1 - t) for t in times)
    else:
        raise ValueError(f"angles={kind} is neither fixed nor ramp")
    rows = torch.tensor([gamma, beta], dtype=torch.float64)
    return Angles(rows[:1] * scale(ising), rows[1:], warm)


def warm_start(bits: Tensor, epsilon: float = 0.25) -> Tensor:
    """Return θ (n,) of qubits that read `bits` with probability 1 − ε; θ = 2·arcsin √P(1)."""
    probability = bits.to(torch.float64) * (1 - 2 * epsilon) + epsilon
    return 2 * torch.asin(torch.sqrt(probability))


@functools.lru_cache(maxsize=64)
def qaoa_circuit(n: int, edges: tuple[tuple[int, int], ...], layers: int, warm: bool) -> Circuit:
    """Build |+⟩, or RY(θ) with a warm start; then layers of RZZ, RZ and RX, or RY(−θ) RZ RY(θ).

    Angles, in order: θ (n) and −θ (n) if warm; then for each layer the couplings' (len(edges)), the
    fields' (n) and one for the mixer.
    """
    gates = [Gate("ry", (i,), i) if warm else Gate("h", (i,)) for i in range(n)]
    k = 2 * n if warm else 0
    for _ in range(layers):
        gates += [Gate("rzz", edge, k + e) for e, edge in enumerate(edges)]
        k += len(edges)
        gates += [Gate("rz", (i,), k + i) for i in range(n)]
        k += n
        if warm:
            gates += [Gate("ry", (i,), n + i) for i in range(n)]
            gates += [Gate("rz", (i,), k) for i in range(n)]
            gates += [Gate("ry", (i,), i) for i in range(n)]
        else:
            gates += [Gate("rx", (i,), k) for i in range(n)]
        k += 1
    return Circuit(n, tuple(gates), k)


@dataclass(frozen=True, eq=False)
class IsingTask:
    """Sample QAOA states of a problem, one row for each set of angles."""

    ising: Ising
    angles: Angles

    @property
    def rows(self) -> int:
        return len(self.angles.gamma)

    def circuit(self) -> Circuit:
        warm = self.angles.warm is not None
        return qaoa_circuit(self.ising.qubits, self.ising.edges, self.angles.layers, warm)

    def values(self) -> Tensor:
        """Return angles (R, P), float64, for `qaoa_circuit`: RZZ(2γJ), RZ(2γh), RX(−2β)."""
        couplings = self.ising.J[self.ising.J != 0]  # in the order of `edges`
        coefficients = 2 * torch.cat([couplings, self.ising.h])  # (E + n,)
        gamma, beta = self.angles.gamma.double(), self.angles.beta.double()  # (R, p)
        layers = torch.cat([gamma[..., None] * coefficients, -2 * beta[..., None]], -1)  # (R, p, E + n + 1)
        if self.angles.warm is None:
            return layers.flatten(1)
        theta = self.angles.warm.double()
        return torch.cat([torch.cat([theta, -theta]).expand(self.rows, -1), layers.flatten(1)], 1)

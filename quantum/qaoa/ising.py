"""Ising problems, E(z) = c + Σ_i h_i z_i + Σ_{i<j} J_ij z_i z_j with z_i = ±1, and QUBO problems as such.

Bits b_i ∈ {0, 1} and spins are tied by z = 1 − 2b: bit 0 is spin +1 is |0⟩. Bit i of an index is b_i.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qdreamer.quantum.circuits.backend import Usage
from qdreamer.quantum.circuits.sampling import index_to_bits

CVAR = 0.1  # share of the samples, the lowest ones
MAX_ENUMERATED = 24  # qubits; 2^24 energies take 64 MiB


@dataclass(frozen=True, eq=False)
class Ising:
    """Fields h (n,), couplings J (n, n) above the diagonal only, and a constant; float64, CPU.

    Raises ValueError for other shapes, entries on or below the diagonal, or values that are not finite.
    """

    h: Tensor
    J: Tensor
    constant: float = 0.0

    def __post_init__(self) -> None:
        h, couplings = (torch.as_tensor(x).detach().to("cpu", torch.float64) for x in (self.h, self.J))
        n = len(h) if h.dim() == 1 else 0
        if n < 1 or couplings.shape != (n, n):
            raise ValueError(f"h {tuple(h.shape)} and J {tuple(couplings.shape)} must be (n,) and (n, n)")
        if couplings.tril().any():
            raise ValueError("J must be zero on and below its diagonal: each pair i < j counts once")
        if not (torch.isfinite(h).all() and torch.isfinite(couplings).all()):
            raise ValueError("h and J must be finite")
        object.__setattr__(self, "h", h)
        object.__setattr__(self, "J", couplings)

    @property
    def qubits(self) -> int:
        return len(self.h)

    @property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """Pairs i < j with a coupling."""
        return tuple((i, j) for i, j in self.J.nonzero().tolist())


def from_qubo(quadratic: Tensor, constant: float = 0.0) -> Ising:
    """Return the Ising form of E(b) = bᵀQb + constant; Q (n, n) need not be symmetric or triangular.

    With b = (1 − z)/2: J_ij = (Q_ij + Q_ji)/4, h_i = −Q_ii/2 − Σ_{j≠i} (Q_ij + Q_ji)/4. Exact but for
    the rounding of the sums.
    """
    q = torch.as_tensor(quadratic).detach().to("cpu", torch.float64)
    if q.dim() != 2 or q.shape[0] != q.shape[1]:
        raise ValueError(f"Q {tuple(q.shape)} must be (n, n)")
    diagonal, pairs = q.diagonal(), (q + q.t()) / 4
    pairs = pairs - pairs.diagonal().diag()
    couplings = pairs.triu(1)
    constant += float(diagonal.sum() / 2 + couplings.sum())
    return Ising(-diagonal / 2 - pairs.sum(1), couplings, constant)


def normalized(ising: Ising) -> tuple[Ising, float]:
    """Return the problem without its constant and divided by a power of two, and that power.

    Its largest number lies in [1, 2), so that single precision holds its energies whatever the scale and
    the constant; a power of two rounds nothing.
    """
    largest = float(torch.maximum(ising.h.abs().max(), ising.J.abs().max()))
    power = math.ldexp(1.0, math.frexp(largest)[1] - 1) if largest else 1.0
    return Ising(ising.h / power, ising.J / power), power


def energy(ising: Ising, bits: Tensor) -> Tensor:
    """Return E of bit strings (…, n) → (…,), float64."""
    return energy_of_spins(ising, 1.0 - 2.0 * bits.to(torch.float64))


def energy_of_spins(ising: Ising, spins: Tensor) -> Tensor:
    """Return E of spins (…, n), which may be any real numbers, → (…,), float64."""
    return ising.constant + spins @ ising.h + ((spins @ ising.J) * spins).sum(-1)


def energies(ising: Ising, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return E of all 2^n bit strings, in the order of their indices.

    The bits are cut in halves a and b: E(a, b) = E_a + E_b + z_aᵀ J_ab z_b, one matrix product.
    Raises ValueError for n > 24.
    """
    n = ising.qubits
    if n > MAX_ENUMERATED:
        raise ValueError(f"2^{n} energies are too many: at most {MAX_ENUMERATED} qubits can be enumerated")
    low = n // 2
    spins = 1.0 - 2.0 * all_bits(n - low).to(torch.float64)
    h, couplings = ising.h, ising.J
    a = spins[: 2**low, :low]  # (2^low, low): the low half is at most as long as the high one
    energy_a = a @ h[:low] + ((a @ couplings[:low, :low]) * a).sum(1)
    energy_b = spins @ h[low:] + ((spins @ couplings[low:, low:]) * spins).sum(1) + ising.constant
    field_b = couplings[:low, low:] @ spins.t()  # (low, 2^high)
    a, field_b, energy_a, energy_b = (x.to(dtype) for x in (a, field_b, energy_a, energy_b))
    table = torch.mm(field_b.t(), a.t())  # (2^high, 2^low)
    return table.add_(energy_a).add_(energy_b[:, None]).view(-1)


def all_bits(n: int) -> Tensor:
    """Return all bit strings (2^n, n), uint8, row x holding the bits of x."""
    return index_to_bits(torch.arange(2**n), n)


@dataclass(frozen=True, eq=False)
class Solution:
    """The best bits (n,), uint8, their energy, and statistics of the S samples they came from."""

    bits: Tensor
    energy: float
    mean: float  # ⟨E⟩ of the samples, readout errors undone where they are known
    cvar: float  # mean of the lowest tenth of the samples
    samples: int
    usage: Usage


def cvar(values: Tensor, share: float = CVAR) -> float:
    """Return the mean of the lowest `share` of energies (S,), at least one (Barkoutsos et al. 1907.04769)."""
    count = max(1, math.ceil(share * len(values)))
    return float(values.topk(count, largest=False).values.mean())


def best_of(ising: Ising, bits: Tensor, mean: float | None = None, usage: Usage | None = None) -> Solution:
    """Return the solution among sampled bits (S, n)."""
    values, constant = energy(replace(ising, constant=0.0), bits), ising.constant
    lowest, which = values.min(0)
    mean = float(values.mean()) + constant if mean is None else mean
    tail = cvar(values) + constant
    return Solution(bits[which], float(lowest) + constant, mean, tail, len(bits), usage or Usage())


def approximation_ratio(table: Tensor, value: float) -> float:
    """Return (Emax − E)/(Emax − Emin), with all energies (2^n,) in `table`; 1 where all are equal."""
    low, high = float(table.min()), float(table.max())
    return 1.0 if high <= low else (high - value) / (high - low)

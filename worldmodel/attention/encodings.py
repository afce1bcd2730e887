"""Amplitude encodings of queries and keys, their overlaps, and the features that give the same overlaps.

A unit vector of d features becomes the state |φ⟩ of log₂ d qubits (Schuld & Petruccione 2021, §4.2):

    real      |φ(x)⟩ = Σ_i x_i |i⟩                    d amplitudes
    complex   |φ(x)⟩ = Σ_i (x_i + i·x_{i+d/2}) |i⟩    d/2 amplitudes, paired as `rotary.py` pairs them

The overlap is linear in the density matrix ρ = |φ⟩⟨φ|: |⟨φ|χ⟩|² = Tr(ρ_φ ρ_χ). So it is a product of
φ features of the query and φ of the key, and sums over keys are a state of fixed size.

The floor f is a depolarizing channel on the query's state, up to normalisation:
Tr((ρ_q + f·1) ρ_k) = |⟨q|k⟩|² + f, for keys of length one (Tr ρ_k = 1).
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

Overlaps = Callable[[Tensor, Tensor], Tensor]
"""Measures |⟨φ(q)|φ(k)⟩|² of unit vectors (…, N, d), (…, M, d) → (…, N, M).

The seam for circuits: `Born.overlaps` can be replaced by anything of this form, such as an
inversion test on a quantum backend.
"""


class Encoding(Protocol):
    """How unit vectors become states. Column layout: features in rows, C vectors in columns."""

    floor: float  # f
    size: int  # φ, the number of features
    real: bool  # real amplitudes: overlaps are squares of products

    def overlaps(self, q: Tensor, k: Tensor) -> Tensor:
        """See `Overlaps`; exact."""
        ...

    def features(self, x: Tensor) -> Tensor:
        """(…, d, C) → (…, φ, C)."""
        ...

    def read(self, features: Tensor, state: Tensor) -> Tensor:
        """Σ_m Tr((ρ_q + f·1) ρ_m) w_m for queries (…, φ, C), given Σ_m φ(k_m) w_mᵀ (…, φ, D): (…, C, D)."""
        ...


class RealAmplitudes:
    """Features x_i·x_{i+s}, indices cyclic, for the shifts s = 0…⌊d/2⌋.

    They hold each entry of the symmetric matrix xxᵀ once, but for the last shift of an even d, which
    holds its entries twice: about half of the d² entries, and no list of indices to gather by.
    """

    real = True

    def __init__(self, width: int, floor: float) -> None:
        self.width, self.floor = width, floor
        self.size = (width // 2 + 1) * width
        # How often the product of two features counts in ⟨x|y⟩² = Σ_ij x_i x_j y_i y_j.
        counts = torch.full((width // 2 + 1, width), 2.0)
        counts[0] = 1.0
        if width % 2 == 0:
            counts[-1] = 1.0  # x_i·x_{i+d/2} stands there for i and for i + d/2
        self._counts = counts.view(-1, 1)

    def overlaps(self, q: Tensor, k: Tensor) -> Tensor:
        return (q @ k.mT).square()

    def features(self, x: Tensor) -> Tensor:
        around = torch.cat([x, x[..., : self.width // 2, :]], -2)
        shifted = around.unfold(-2, self.width, 1).mT  # (…, ⌊d/2⌋ + 1, d, C)
        return (shifted * x.unsqueeze(-3)).flatten(-3, -2)

    def read(self, features: Tensor, state: Tensor) -> Tensor:
        weighted = features * self._counts.to(features)
        weighted[..., : self.width, :] += self.floor  # shift 0 is the diagonal: its sum is the trace
        return weighted.mT @ state


class ComplexAmplitudes:
    """Features Re ρ + Im ρ, (d/2)² of them. Raises ValueError when d is odd.

    Re ρ is symmetric and Im ρ antisymmetric, so the two don't mix in the product of two such matrices:
    Σ_ij (Re ρ + Im ρ)_ij (Re σ + Im σ)_ij = Σ_ij Re ρ_ij Re σ_ij + Im ρ_ij Im σ_ij = Tr(ρσ).
    """

    real = False

    def __init__(self, width: int, floor: float) -> None:
        if width % 2:
            raise ValueError(f"complex amplitudes need an even head width, not {width}: set complex=False")
        self._modes, self.floor = width // 2, floor
        self.size = self._modes**2

    def overlaps(self, q: Tensor, k: Tensor) -> Tensor:
        real, imaginary = q.chunk(2, -1)
        turned = torch.cat([-imaginary, real], -1)  # ⟨q|k⟩ = q·k + i·(turned·k)
        return (q @ k.mT).square() + (turned @ k.mT).square()

    def features(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, -2)  # real and imaginary parts, (…, d/2, C)
        first = a.unsqueeze(-2) * (a - b).unsqueeze(-3)  # a_i(a_j − b_j) + b_i(a_j + b_j)
        return torch.addcmul(first, b.unsqueeze(-2), (a + b).unsqueeze(-3)).flatten(-3, -2)

    def read(self, features: Tensor, state: Tensor) -> Tensor:
        weighted = features.clone()
        weighted[..., :: self._modes + 1, :] += self.floor  # the diagonal, whose sum is the trace
        return weighted.mT @ state

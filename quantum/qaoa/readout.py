"""Readout errors, undone on estimates by inverting each qubit's 2×2 confusion matrix.

A_i[r, p] is the probability that qubit i reads r when it is p. Expectations of products over qubits
need only the inverse of each A_i: no 2^n matrix, and no bias; the variance grows by the same factor.
"""

import torch
from torch import Tensor

from qdreamer.quantum.qaoa.ising import Ising, energy, energy_of_spins


def confusion_from(zeros: Tensor, ones: Tensor) -> Tensor:
    """A (n, 2, 2) from bits (S, n) measured after preparing |0…0⟩ and |1…1⟩, float64.

    Each rate is (k + ½)/(S + 1), which is never exactly 0.
    """
    wrong0 = (zeros.double().sum(0) + 0.5) / (len(zeros) + 1)
    wrong1 = ((1 - ones.double()).sum(0) + 0.5) / (len(ones) + 1)
    return torch.stack([torch.stack([1 - wrong0, wrong1], -1), torch.stack([wrong0, 1 - wrong1], -1)], -2)


def inverse(confusion: Tensor) -> Tensor:
    """A⁻¹ (n, 2, 2). Raises ValueError where a qubit's reading says nothing about it."""
    determinant = confusion[:, 0, 0] + confusion[:, 1, 1] - 1
    if not (determinant > 0.01).all():
        worst = int(determinant.argmin())
        raise ValueError(f"qubit {worst} reads at random: choose another device or switch mitigation off")
    return torch.linalg.inv(confusion)


def zero_probability(bits: Tensor, confusion: Tensor | None) -> Tensor:
    """P(all qubits 0) (R,) from bits (R, S, n): the mean of Π_i A_i⁻¹[0, b_i]. May leave [0, 1]."""
    if confusion is None:
        return (bits == 0).all(-1).double().mean(-1)
    weight = inverse(confusion)[:, 0]  # (n, 2)
    return torch.where(bits == 0, weight[:, 0], weight[:, 1]).prod(-1).mean(-1)


def mean_energy(ising: Ising, bits: Tensor, confusion: Tensor | None) -> Tensor:
    """⟨E⟩ (R,) from bits (R, S, n): with z_i replaced by Σ_p (−1)^p A_i⁻¹[p, b_i] if A is known."""
    if confusion is None:
        return energy(ising, bits).mean(-1)
    inverted = inverse(confusion)
    spins = inverted[:, 0] - inverted[:, 1]  # (n, 2), by what was read
    return energy_of_spins(ising, torch.where(bits == 0, spins[:, 0], spins[:, 1])).mean(-1)


def corrected_probabilities(bits: Tensor, confusion: Tensor | None) -> Tensor:
    """P(x) (R, 2^n) from bits (R, S, n): frequencies times A⁻¹, moved onto the simplex.

    The nearest distribution in the 2-norm (Smolin et al. 1106.5458). Takes R·2^n numbers.
    """
    rows, shots, n = bits.shape
    index = (bits.long() << torch.arange(n)).sum(-1)  # (R, S)
    p = torch.zeros(rows, 2**n, dtype=torch.float64)
    p.scatter_add_(1, index, torch.full(index.shape, 1.0 / shots, dtype=torch.float64))
    if confusion is None:
        return p
    for i, matrix in enumerate(inverse(confusion)):
        p = torch.einsum("ab,rhbl->rhal", matrix, p.view(rows, -1, 2, 2**i)).reshape(rows, -1)
    falling = p.sort(1, descending=True).values
    excess = (falling.cumsum(1) - 1) / torch.arange(1, 2**n + 1)
    kept = (falling > excess).sum(1, keepdim=True)
    return (p - excess.gather(1, kept - 1)).clamp(min=0)

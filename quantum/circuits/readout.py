"""Readout errors, undone on estimates by inverting each qubit's 2×2 confusion matrix.

A_i[r, p] is the probability that qubit i reads r when it is p. Expectations of products over qubits
need only the inverse of each A_i: no 2^n matrix, and no bias; the variance grows by the same factor.
"""

import torch
from torch import Tensor


def confusion_from(zeros: Tensor, ones: Tensor) -> Tensor:
    """Return A (n, 2, 2) from bits (S, n) measured after preparing |0…0⟩ and |1…1⟩, float64.

    Each rate is (k + ½)/(S + 1), which is never exactly 0.
    """
    wrong0 = (zeros.double().sum(0) + 0.5) / (len(zeros) + 1)
    wrong1 = ((1 - ones.double()).sum(0) + 0.5) / (len(ones) + 1)
    return torch.stack([torch.stack([1 - wrong0, wrong1], -1), torch.stack([wrong0, 1 - wrong1], -1)], -2)


def inverse(confusion: Tensor) -> Tensor:
    """Return A⁻¹ (n, 2, 2). Raises ValueError where a qubit's reading says nothing about it."""
    determinant = confusion[:, 0, 0] + confusion[:, 1, 1] - 1
    if not (determinant > 0.01).all():
        worst = int(determinant.argmin())
        raise ValueError(f"qubit {worst} reads at random: choose another device or switch mitigation off")
    return torch.linalg.inv(confusion)


def zero_probability(bits: Tensor, confusion: Tensor | None) -> Tensor:
    """Return P(all qubits 0) (R,) of bits (R, S, n): the mean of Π_i A_i⁻¹[0, b_i]. May leave [0, 1]."""
    if confusion is None:
        return (bits == 0).all(-1).double().mean(-1)
    weight = inverse(confusion)[:, 0]  # (n, 2)
    return torch.where(bits == 0, weight[:, 0], weight[:, 1]).prod(-1).mean(-1)

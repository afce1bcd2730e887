"""A quadratic model of a loss over one multiplier for each block of a proposed step.

    m(s) = gᵀDs + ½ sᵀDᵀHDs,   D = [d_1 … d_M]

d_i is the proposed step in block i and 0 elsewhere, so s = (1, …, 1) is the step as proposed. g is the
gradient of the loss; rows of DᵀHD are differences of gradients, D_jᵀ(g(θ + εd_i) − g(θ))/ε, without second
derivatives: hand-written and fused kernels have none. A search may measure a few rows and keep the others
from earlier searches (`RunningCurvature`).

The loss must be a smooth function of the weights. A world model's is not: its latents are drawn, and
gradients are straight-through and stopped. `agents.optim.local_objective` says what takes its place.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qdreamer.agents.optim.optimizer import Objective
from qdreamer.quantum.qaoa.ising import Ising, from_qubo


@dataclass(frozen=True)
class Levels:
    """Multipliers that are affine in bits: s = c + Σ_k w_k b_k. Bit k of block m is bit m·K + k."""

    offset: float  # c
    weights: tuple[float, ...]  # w

    @classmethod
    def of(cls, values: Sequence[float]) -> "Levels":
        """Return the form of two levels, or of four with l₀ + l₃ = l₁ + l₂. Raises ValueError for others."""
        shown = ", ".join(f"{value:g}" for value in values)
        if len(values) not in (2, 4) or len(set(values)) != len(values):
            raise ValueError(f"levels=[{shown}] must be two or four different numbers")
        if len(values) == 2:
            return cls(values[0], (values[1] - values[0],))
        if abs(values[0] + values[3] - values[1] - values[2]) > 1e-9:
            raise ValueError(
                f"levels=[{shown}] must be affine in two bits: the first and last add up to what "
                "the middle two do, as [0, 0.5, 1, 1.5]"
            )
        return cls(values[0], (values[1] - values[0], values[2] - values[0]))

    @property
    def bits(self) -> int:
        """Qubits of a block."""
        return len(self.weights)

    def multipliers(self, bits: Tensor) -> Tensor:
        """Convert bits (…, M·K) → s (…, M), float64."""
        weights = torch.tensor(self.weights, dtype=torch.float64)
        return self.offset + bits.double().unflatten(-1, (-1, self.bits)) @ weights


@dataclass(frozen=True, eq=False)
class Quadratic:
    """m(s); linear (M,) = Dᵀg, curvature (M, M) = DᵀHD, symmetric; float64, CPU."""

    linear: Tensor
    curvature: Tensor

    def __call__(self, s: Tensor) -> Tensor:
        """Return m of multipliers (…, M) → (…)."""
        return s @ self.linear + 0.5 * ((s @ self.curvature) * s).sum(-1)

    def ising(self, levels: Levels) -> Ising:
        """Return m over the levels: E(b) = m(c + Wb), with n = M·K bits.

        With s = c·1 + Wb it is bᵀ(½ WᵀAW)b + (Wᵀ(a + cA1))ᵀb + m(c·1), and b² = b.
        """
        blocks = torch.eye(len(self.linear), dtype=torch.float64)
        weights = torch.kron(blocks, torch.tensor([levels.weights], dtype=torch.float64))  # W (M, n)
        start = torch.full_like(self.linear, levels.offset)
        field = weights.t() @ (self.linear + self.curvature @ start)
        return from_qubo(0.5 * weights.t() @ self.curvature @ weights + field.diag(), float(self(start)))


def slopes(loss: Objective, parameters: list[Tensor], block: Tensor, step: list[Tensor]) -> Tensor:
    """Return Dᵀg (M,), float64, at the present weights.

    Args:
        block: (P,), which of M blocks each of P parameters is in. step: the proposed steps.
    """
    with torch.enable_grad():
        gradients = torch.autograd.grad(loss(), parameters, allow_unused=True)
    dots = [
        d.new_zeros(()) if g is None else torch.dot(g.flatten(), d.flatten())
        for g, d in zip(gradients, step, strict=True)
    ]
    sums = torch.stack(dots).double()
    return sums.new_zeros(int(block.max()) + 1).index_add_(0, block.to(sums.device), sums).cpu()


@torch.no_grad()
def curvature_rows(
    loss: Objective, here: Tensor, parameters: list[Tensor], block: Tensor, step: list[Tensor],
    epsilon: float, chosen: Sequence[int],
) -> Tensor:  # fmt: skip
    """Return rows d_iᵀHD (·, M) of the chosen blocks at the present weights, which are left as they were.

    Args:
        loss: takes one gradient for each row. here: its slopes at the present weights.
        block, step: as of `slopes`.
        epsilon: length of the differences; 1 is the proposed step. A longer one rounds less; and of a
            loss that is no quadratic it takes in how the curvature changes on the way.
    """
    rows = here.new_zeros(len(chosen), len(here))
    for row, m in zip(rows, chosen, strict=True):
        mine = [k for k, other in enumerate(block.tolist()) if other == m]
        moved, kept = [parameters[k] for k in mine], [parameters[k].clone() for k in mine]
        torch._foreach_add_(moved, [step[k] for k in mine], alpha=epsilon)
        row.copy_((slopes(loss, parameters, block, step) - here) / epsilon)
        torch._foreach_copy_(moved, kept)
    return rows


class RunningCurvature:
    """DᵀHD of M blocks, of which each search measures a few rows in turn; the first one all.

    What is kept is d_iᵀHd_j/(‖d_i‖‖d_j‖), the curvature along directions, and the present steps' lengths are
    put in. Blocks that do not move keep what they had, and are measured when they first move.
    """

    def __init__(self, blocks: int, rows: int | None = None) -> None:
        self._rows = min(rows or blocks, blocks)
        self._known = torch.zeros(blocks, blocks, dtype=torch.float64)
        self._measured = torch.zeros(blocks, dtype=torch.bool)
        self._next = 0

    def turn(self, lengths: Tensor) -> list[int]:
        """Return the blocks whose rows are due, of steps of these lengths (M,)."""
        moves = lengths > 0
        if new := torch.nonzero(moves & ~self._measured).flatten().tolist():
            return new
        order = torch.arange(len(moves)).roll(-self._next)
        return order[moves[order]][: self._rows].tolist()

    def update(self, chosen: Sequence[int], rows: Tensor, lengths: Tensor) -> Tensor:
        """Take in rows (·, M) of the chosen blocks; return DᵀHD (M, M) for steps of these lengths (M,)."""
        scale = lengths[:, None] * lengths  # (M, M)
        measured, count = torch.zeros_like(self._known), torch.zeros_like(self._known)
        measured[chosen], count[chosen] = rows, 1.0
        count = count + count.t()  # 2 where both blocks of a pair were measured: the mean of the two
        found = (measured + measured.t()) / (count * scale).clamp_min(1e-300)
        self._known = torch.where((count > 0) & (scale > 0), found, self._known)
        self._measured[chosen] = True
        if len(chosen):
            self._next = (chosen[-1] + 1) % len(lengths)
        return self._known * scale

    def state_dict(self) -> dict[str, Any]:
        return {"known": self._known, "measured": self._measured, "next": self._next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._known, self._measured, self._next = state["known"], state["measured"].clone(), state["next"]


def off_diagonal(curvature: Tensor) -> float:
    """Return the share of ‖A‖² (Frobenius) that is not on the diagonal.

    0 where no block changes what another one's step is worth; 1 − 1/M where all entries are equal.
    """
    whole = float(curvature.square().sum())
    return 1.0 - float(curvature.diagonal().square().sum()) / whole if whole else 0.0

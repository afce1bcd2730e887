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

    @property
    def finite(self) -> bool:
        return all(bool(torch.isfinite(part).all()) for part in (self.linear, self.curvature))

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


def slopes(gradients: Sequence[Tensor | None], step: list[Tensor], block: Tensor) -> Tensor:
    """Return Dᵀg (M,), float64, of gradients of P parameters; `block` (P,) tells which block each is in."""
    dots = [
        d.new_zeros(()) if g is None else torch.dot(g.flatten(), d.flatten())
        for g, d in zip(gradients, step, strict=True)
    ]
    sums = torch.stack(dots).double()
    return sums.new_zeros(int(block.max()) + 1).index_add_(0, block.to(sums.device), sums).cpu()


@torch.no_grad()
def curvature_rows(
    loss: Objective, parameters: list[Tensor], block: Tensor, step: list[Tensor], epsilon: float,
    chosen: Sequence[int],
) -> Tensor:  # fmt: skip
    """Return rows d_iᵀHD (·, M) of the chosen blocks at the present weights, which are left as they were.

    Args:
        loss: takes one gradient more than there are rows.
        block: (P,), which of M blocks each of P parameters is in. step: the proposed steps.
        epsilon: length of the differences; 1 is the proposed step. A longer one rounds less; and of a
            loss that is no quadratic it takes in how the curvature changes on the way.
    """

    def here() -> Tensor:
        with torch.enable_grad():
            gradients = torch.autograd.grad(loss(), parameters, allow_unused=True)
        return slopes(gradients, step, block)

    start, rows = here(), []
    for m in chosen:
        mine = [k for k, other in enumerate(block.tolist()) if other == m]
        moved, kept = [parameters[k] for k in mine], [parameters[k].clone() for k in mine]
        torch._foreach_add_(moved, [step[k] for k in mine], alpha=epsilon)
        rows.append((here() - start) / epsilon)
        torch._foreach_copy_(moved, kept)
    return torch.stack(rows)


class RunningCurvature:
    """DᵀHD of M blocks, of which each search measures a few rows in turn; the first one all.

    What is kept is d_iᵀHd_j/(‖d_i‖‖d_j‖), the curvature along directions, and the present steps' lengths are
    put in. Blocks that do not move keep what they had.
    """

    def __init__(self, blocks: int, rows: int | None = None) -> None:
        self._blocks, self._rows = blocks, min(rows or blocks, blocks)
        self._known: Tensor | None = None  # (M, M)
        self._next = 0

    def turn(self) -> list[int]:
        """Return the blocks whose rows are due."""
        if self._known is None:
            return list(range(self._blocks))
        return [(self._next + k) % self._blocks for k in range(self._rows)]

    def update(self, rows: Tensor, lengths: Tensor) -> Tensor:
        """Take in the rows (·, M) of `turn()`; return DᵀHD (M, M) for steps of these lengths (M,)."""
        chosen, shape = self.turn(), (self._blocks, self._blocks)
        scale = lengths[:, None] * lengths  # (M, M)
        measured, count = rows.new_zeros(shape), rows.new_zeros(shape)
        measured[chosen], count[chosen] = rows, 1.0
        count = count + count.t()  # 2 where both blocks of a pair were measured: the mean of the two
        found = (measured + measured.t()) / (count * scale).clamp_min(1e-300)
        before = torch.zeros(shape, dtype=rows.dtype) if self._known is None else self._known
        self._known = torch.where((count > 0) & (scale > 0), found, before)
        self._next = (chosen[-1] + 1) % self._blocks
        return self._known * scale

    def state_dict(self) -> dict[str, Any]:
        return {"known": self._known, "next": self._next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._known, self._next = state["known"], state["next"]


def off_diagonal(curvature: Tensor) -> float:
    """Return ‖A − diag A‖/‖A‖ (Frobenius): 0 where no block changes what another one's step is worth."""
    whole = float(torch.linalg.matrix_norm(curvature))
    return float(torch.linalg.matrix_norm(curvature - curvature.diagonal().diag())) / whole if whole else 0.0

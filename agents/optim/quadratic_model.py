"""A quadratic model of a loss over one multiplier for each block of a proposed step.

    m(s) = gᵀDs + ½ sᵀDᵀHDs,   D = [d_1 … d_M]

d_i is the proposed step in block i and 0 elsewhere, so s = (1, …, 1) is the step as proposed. g is the
gradient of the loss; DᵀHD is taken from M differences of gradients, D_jᵀ(g(θ + εd_i) − g(θ))/ε, without
second derivatives: hand-written and fused kernels have none.

The loss must be a smooth function of the weights. A world model's is not: its latents are drawn, and
gradients are straight-through and stopped. `agents.optim.local_objective` says what takes its place.
"""

from collections.abc import Sequence
from dataclasses import dataclass

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


def measure(
    full_batch: Objective, sub_batch: Objective, parameters: list[Tensor], block: Tensor,
    step: list[Tensor], epsilon: float,
) -> Quadratic:  # fmt: skip
    """Return the model at the present weights, which it leaves as they were, to the bit.

    Args:
        full_batch: the loss that the gradient is of. sub_batch: the same on less data, for the curvature,
            which takes M + 1 gradients.
        block: (P,), which of M blocks each of P parameters is in. step: the proposed steps.
        epsilon: length of the differences; 1 is the proposed step. A longer one rounds less; and of a
            loss that is no quadratic it takes in how the curvature changes on the way.
    """
    count = int(block.max()) + 1

    def slopes(loss: Objective) -> Tensor:
        """Return Dᵀg (M,)."""
        with torch.enable_grad():
            gradients = torch.autograd.grad(loss(), parameters, allow_unused=True)
        dots = [
            step[k].new_zeros(()) if g is None else torch.dot(g.flatten(), step[k].flatten())
            for k, g in enumerate(gradients)
        ]
        sums = torch.stack(dots).double()
        return sums.new_zeros(count).index_add_(0, block.to(sums.device), sums)

    with torch.no_grad():
        linear, here = slopes(full_batch), slopes(sub_batch)
        rows = []
        for m in range(count):
            mine = [k for k, other in enumerate(block.tolist()) if other == m]
            moved, kept = [parameters[k] for k in mine], [parameters[k].clone() for k in mine]
            torch._foreach_add_(moved, [step[k] for k in mine], alpha=epsilon)
            rows.append((slopes(sub_batch) - here) / epsilon)
            torch._foreach_copy_(moved, kept)
        curvature = torch.stack(rows)
        # Symmetric but for rounding and the length of the differences; m sees the symmetric part alone.
        return Quadratic(linear.cpu(), (0.5 * (curvature + curvature.t())).cpu())

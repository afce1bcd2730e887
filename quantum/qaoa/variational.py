"""The variational loop of QAOA, on the simulator of this process (`angles=optimized`; Farhi et al. 2014)."""

import torch
from torch import Tensor

from qdreamer.quantum.qaoa.ansatz import Angles
from qdreamer.quantum.qaoa.simulator import Simulator


def optimized(simulator: Simulator, start: Angles, steps: int) -> Angles:
    """Take a few steps downhill in ⟨E⟩ from one set of angles (γ and β, (1, p) each); never uphill.

    Each step takes the gradient by central differences, all of them in one batch, then the best of
    eight step lengths, again in one batch: 4p + 8 simulations.
    """
    layers = start.layers
    scales = torch.cat([start.gamma.abs().amax().expand(layers), start.beta.abs().amax().expand(layers)])
    scales = scales.clamp(min=1e-12)
    x = torch.cat([start.gamma[0], start.beta[0]]) / scales  # (2p,), of order 1

    def evaluate(points: Tensor) -> Tensor:
        points = points * scales
        return simulator.expectation(Angles(points[:, :layers], points[:, layers:], start.warm)).double()

    best = evaluate(x[None])[0]
    difference = 0.02
    lengths = 2.0 ** -torch.arange(8, dtype=torch.float64)
    offsets = torch.eye(2 * layers, dtype=torch.float64) * difference
    for _ in range(steps):
        values = evaluate(torch.cat([x + offsets, x - offsets]))
        gradient = (values[: 2 * layers] - values[2 * layers :]) / (2 * difference)
        norm = gradient.norm()
        if norm == 0:
            break
        points = x - 0.5 * lengths[:, None] * gradient / norm
        values = evaluate(points)
        lowest = values.argmin()
        if values[lowest] >= best:
            break
        x, best = points[lowest], values[lowest]
    x = x * scales
    return Angles(x[None, :layers], x[None, layers:], start.warm)

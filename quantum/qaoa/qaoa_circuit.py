"""QAOA as a circuit: one for every shape (qubits, couplings, layers, start), problems bind its angles."""

import functools

import torch
from torch import Tensor

from qdreamer.quantum.circuits.circuit import Circuit, Gate
from qdreamer.quantum.qaoa.angles import Angles
from qdreamer.quantum.qaoa.ising import Ising


@functools.lru_cache(maxsize=64)
def qaoa_circuit(n: int, edges: tuple[tuple[int, int], ...], layers: int, warm: bool) -> Circuit:
    """|+⟩, or RY(θ) with a warm start; then layers of RZZ, RZ and RX, or RY(−θ) RZ RY(θ).

    Angles, in order: θ (n) and −θ (n) if warm; then for each layer the couplings' (len(edges)), the
    fields' (n) and one for the mixer.
    """
    if warm:
        gates = [Gate("ry", (i,), i) for i in range(n)]
        k = 2 * n
    else:
        gates = [Gate("h", (i,)) for i in range(n)]
        k = 0
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


def qaoa_values(ising: Ising, angles: Angles, edges: tuple[tuple[int, int], ...]) -> Tensor:
    """Angles (R, P), float64, for `qaoa_circuit`: RZZ(2γJ), RZ(2γh), RX(−2β)."""
    couplings = torch.stack([ising.J[i, j] for i, j in edges]) if edges else ising.J.new_zeros(0)
    coefficients = 2 * torch.cat([couplings, ising.h])  # (E + n,)
    gamma, beta = angles.gamma.double(), angles.beta.double()  # (R, p)
    layers = torch.cat([gamma[..., None] * coefficients, -2 * beta[..., None]], -1)  # (R, p, E + n + 1)
    values = layers.flatten(1)
    if angles.warm is None:
        return values
    theta = angles.warm.double()
    return torch.cat([torch.cat([theta, -theta]).expand(len(values), -1), values], 1)

"""A circuit as a list of gates: the one definition that every backend translates.

Bit i of an index belongs to qubit i: basis state |x⟩ of n qubits has x = Σ_i b_i 2^i. Every angle is
a parameter, so one circuit serves all problems of its shape and is transpiled once.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

ROTATIONS = ("rx", "ry", "rz", "rzz")  # exp(−iθP/2) with P = X, Y, Z, Z⊗Z
FIXED = ("h", "x", "cx")


@dataclass(frozen=True)
class Gate:
    """One gate; `parameter` indexes a row of angles and is None for gates without one."""

    name: str
    qubits: tuple[int, ...]
    parameter: int | None = None


@dataclass(frozen=True)
class Circuit:
    """Gates on `qubits` qubits in |0…0⟩, all of them measured at the end."""

    qubits: int
    gates: tuple[Gate, ...]
    parameters: int

    def __post_init__(self) -> None:
        # Circuits are keys of caches: their hash is taken once.
        object.__setattr__(self, "_hash", hash((self.qubits, self.gates, self.parameters)))

    def __hash__(self) -> int:
        return self._hash  # type: ignore[attr-defined]

    @property
    def two_qubit_gates(self) -> int:
        """Two-qubit gates as written, before transpilation."""
        return sum(len(gate.qubits) == 2 for gate in self.gates)

    @property
    def depth(self) -> int:
        """Layers of gates on disjoint qubits, in the order in which they are written."""
        layers = [0] * self.qubits
        for gate in self.gates:
            end = 1 + max(layers[q] for q in gate.qubits)
            for q in gate.qubits:
                layers[q] = end
        return max(layers)


def statevector(circuit: Circuit, values: Tensor) -> Tensor:
    """Return amplitudes ψ (R, 2^n), complex128, of the circuit with each row of angles `values` (R, P).

    Gate by gate and for any circuit: the reference, not the fast path.
    """
    rows, n = len(values), circuit.qubits
    angles = values.to(torch.float64) / 2
    cos, sin = torch.cos(angles), torch.sin(angles)
    state = torch.zeros(rows, 2**n, dtype=torch.complex128)
    state[:, 0] = 1
    index = torch.arange(2**n)
    for gate in circuit.gates:
        k = gate.parameter
        if gate.name in ("rz", "rzz"):
            assert k is not None
            parity = torch.zeros(2**n, dtype=torch.int64)
            for qubit in gate.qubits:
                parity ^= index >> qubit & 1
            phase = angles[:, k, None] * (2 * parity - 1)  # (R, 2^n)
            state = state * torch.complex(torch.cos(phase), torch.sin(phase))
        elif gate.name == "cx":
            control, target = gate.qubits
            state = state[:, index ^ ((index >> control & 1) << target)]
        else:
            pairs = state.view(rows, -1, 2, 2 ** gate.qubits[0])  # (R, high bits, this bit, low bits)
            zero, one = pairs[:, :, 0], pairs[:, :, 1]
            if gate.name == "h":
                new = (zero + one) * math.sqrt(0.5), (zero - one) * math.sqrt(0.5)
            elif gate.name == "x":
                new = one, zero
            else:
                assert k is not None
                c, s = cos[:, k, None, None], sin[:, k, None, None]
                if gate.name == "rx":
                    new = c * zero - 1j * s * one, c * one - 1j * s * zero
                else:
                    new = c * zero - s * one, c * one + s * zero
            state = torch.stack(new, 2).view(rows, -1)
    return state

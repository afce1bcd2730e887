"""`quantum_train`: a small circuit's probabilities, mapped to weights (Quantum-Train, arXiv:2405.11304).

    p = |ψ|², the first R of 2^n          n = ⌈log₂ R⌉ qubits; R = ⌈M/chunk⌉ basis states
    x = (β tanh(γ 2^{n−1} p))^α − mean
    w = mapping([±1 bits of the index, x]) − mean

as in the code of August 2024. Its mapping network has no activations, so that a weight is a·bits + b·x + c
whatever the hidden layers; with activations it is a network. `chunk` weights per basis state save qubits, as
in the publications' batched generation. Published: α = 0.3, β = 0.8, γ = 0.1, mapping 4-20-4 for
classification; α = β = 1, mapping 10-10-10 for policies (QTRL, arXiv:2407.06103).
"""

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from qdreamer.configs.schema import Float, Int, settings
from qdreamer.quantum.circuits.backend import Backend
from qdreamer.quantum.circuits.entangling import amplitudes, probabilities
from qdreamer.quantum.circuits.shots import measured_probabilities
from qdreamer.worldmodel.weights.generator import WEIGHTS, Sizes, WeightGenerator, WeightsConfig, index_bits

Activation = Literal["none", "relu", "silu", "tanh"]
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "none": nn.Identity, "relu": nn.ReLU, "silu": nn.SiLU, "tanh": nn.Tanh,
}  # fmt: skip
INSIDE = 1e-12  # inside of the power, whose slope at 0 is not finite
MOST_QUBITS = 20


@settings
class QuantumTrainConfig(WeightsConfig):
    blocks: Int = Field(ge=1, default=5)  # L
    mapping: Sizes = (10, 10, 10)  # hidden widths of the mapping network
    activation: Activation = "none"  # between its layers; none is published
    alpha: Float = Field(gt=0.0, default=1.0)
    beta: Float = Field(gt=0.0, default=1.0)
    gamma: Float = Field(gt=0.0, default=1.0)
    chunk: Int = Field(ge=1, default=1)  # weights per basis state

    def __post_init__(self) -> None:
        if not self.mapping and self.activation != "none":
            raise ValueError(
                f"weights.activation={self.activation} has no effect: weights.mapping=[] has no hidden layers"
            )


@WEIGHTS.register("quantum_train", QuantumTrainConfig)
class QuantumTrain(WeightGenerator):
    """See the module's docstring. Trainable are the angles (L, 2, n, 3) and the mapping network.

    Raises ValueError if more than 20 qubits would be needed.
    """

    ring = True
    trains_circuit = True
    bits: Tensor
    angles: Tensor

    def __init__(
        self,
        count: int,
        blocks: int = 5,
        mapping: Sequence[int] = (10, 10, 10),
        activation: str = "none",
        alpha: float = 1.0,
        beta: float = 1.0,
        gamma: float = 1.0,
        chunk: int = 1,
    ) -> None:
        super().__init__(count)
        self.rows = -(-count // chunk)
        self.qubits = max(2, (self.rows - 1).bit_length())
        if self.qubits > MOST_QUBITS:
            raise ValueError(
                f"{count} weights take {self.qubits} qubits, at most {MOST_QUBITS} are simulated: "
                f"set weights.chunk, as weights.chunk={chunk * 2 ** (self.qubits - MOST_QUBITS)}"
            )
        self.alpha, self.beta, self.gamma = alpha, beta, gamma
        angles = math.pi * (2.0 * torch.rand(blocks, 1 + self.ring, self.qubits, 3) - 1.0)
        if self.trains_circuit:
            self.angles = nn.Parameter(angles)
        else:
            self.register_buffer("angles", angles)
        self.mapping = mapping_network(self.qubits + 1, mapping, chunk, activation)
        self.register_buffer("bits", index_bits(self.rows, self.qubits), persistent=False)

    def forward(self) -> Tensor:
        return self.mapped(self.probabilities())

    def probabilities(self) -> Tensor:
        """Return |ψ|² of all basis states, (2^n,), with gradients."""
        with torch.autocast(self.angles.device.type, enabled=False):  # circuits stay in single precision
            return probabilities(amplitudes(self.angles))

    def mapped(self, p: Tensor) -> Tensor:
        """Return the weights (M,) that probabilities (2^n,) stand for."""
        squeezed = self.beta * torch.tanh(self.gamma * 2.0 ** (self.qubits - 1) * p[: self.rows])
        x = squeezed if self.alpha == 1.0 else (squeezed + INSIDE) ** self.alpha
        inputs = torch.cat([self.bits, (x - x.mean()).unsqueeze(-1)], -1)  # (R, n + 1)
        weights = self.mapping(inputs).flatten()[: self.count]
        return weights - weights.mean()

    @torch.no_grad()
    def measured(self, backend: Backend, shots: int, seed: int = 0) -> Tensor:
        """Return the weights (M,) as a backend measures them, without gradients."""
        return self.mapped(measured_probabilities(self.angles, backend, shots, seed).to(self.bits))


def mapping_network(inputs: int, hidden: Sequence[int], outputs: int, activation: str) -> nn.Sequential:
    """Return a network (…, inputs) → (…, outputs), with an activation behind every hidden layer."""
    widths, parts = [inputs, *hidden], list[nn.Module]()
    for before, after in itertools.pairwise(widths):
        parts += [nn.Linear(before, after), ACTIVATIONS[activation]()]
    return nn.Sequential(*parts, nn.Linear(widths[-1], outputs))

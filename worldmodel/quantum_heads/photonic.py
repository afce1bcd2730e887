"""Photons in interferometers in a circuit's place: MerLin's `QuantumLayer` (merlinquai.com), an extra.

    interferometer · [phases π u_i of all modes · interferometer]^L,     u = rule(x) in [0, 1]

of n modes and ⌊n/2⌋ photons, spread out at first. An interferometer of n(n − 1)/2 Mach-Zehnder ones, two
angles each, reaches every unitary U up to phases (Reck et al. 1994). Photons in modes s are found in modes t
with the probability |perm U_ts|² (up to a factor where a mode has several), and z_i = 2⟨n_i⟩ − 1 over the
outcomes with at most one photon a mode. The others are left out: with them ⟨n_i⟩ = Σ_j |U_ij|², as of single
photons.
"""

from typing import Any

import torch
from torch import Tensor, nn

from qdreamer.configs.schema import ConfigError
from qdreamer.worldmodel.quantum_heads.layer import RULES, Rule
from qdreamer.worldmodel.quantum_heads.paths import PATHS

INSTALL = "pip install 'qdreamer[photonic]' && pip install --no-deps merlinquantum==0.4.2"


@PATHS.register("photonic")
class Photonic(nn.Module):
    """(…, n) → (…, n) in [−1, 1], with gradients to inputs and angles; 2(L + 1)·n(n − 1)/2 angles.

    Raises ConfigError without MerLin.
    """

    def __init__(
        self, qubits: int, blocks: int = 2, normalize: Rule = "sigmoid", trainable: bool = True
    ) -> None:
        super().__init__()
        try:
            import merlin
        except ImportError as error:
            raise ConfigError(f"heads.path=photonic needs MerLin: {INSTALL}") from error
        self.qubits, self.blocks, self.normalize = qubits, blocks, normalize
        circuit = merlin.CircuitBuilder(n_modes=qubits)
        circuit.add_entangling_layer(trainable=True, name="mesh0")
        for k in range(blocks):
            circuit.add_angle_encoding(modes=list(range(qubits)), name="input", scale=torch.pi)
            circuit.add_entangling_layer(trainable=True, name=f"mesh{k + 1}")
        read = merlin.MeasurementStrategy.mode_expectations(merlin.ComputationSpace.UNBUNCHED)
        with torch.device("cpu"):  # its graph of outcomes is worked out when it is made
            self.optics: Any = merlin.QuantumLayer(
                builder=circuit, n_photons=qubits // 2, measurement_strategy=read, dtype=torch.float32
            )
        self.optics.requires_grad_(trainable)

    def forward(self, x: Tensor) -> Tensor:
        """Raises ValueError for inputs of another width."""
        if x.shape[-1] != self.qubits:
            raise ValueError(f"inputs of {x.shape[-1]} numbers do not fit {self.qubits} modes: project them")
        with torch.autocast(x.device.type, enabled=False):
            rows = RULES[self.normalize](x.float()).reshape(-1, self.qubits)
            found = self.optics(rows.repeat(1, self.blocks))
        return (2.0 * found - 1.0).view(x.shape).to(x.dtype)


@PATHS.register("photonic_frozen")
def photonic_frozen(qubits: int, blocks: int = 2, normalize: Rule = "sigmoid") -> nn.Module:
    """Return it with angles that stay as they were drawn."""
    return Photonic(qubits, blocks, normalize, trainable=False)

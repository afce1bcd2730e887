"""`mlp_generator`, a control: a small network from a weight's index, in bits, to the weight.

It is `quantum_train` with all parameters in the mapping network and nothing in the circuit.
"""

from torch import Tensor, nn

from qdreamer.configs.schema import settings
from qdreamer.worldmodel.weights.generator import WEIGHTS, SizedConfig, WeightGenerator, index_bits
from qdreamer.worldmodel.weights.quantum_train import Activation, mapping_network


@settings
class MLPGeneratorConfig(SizedConfig):
    activation: Activation = "relu"


@WEIGHTS.register("mlp_generator", MLPGeneratorConfig)
class MLPGenerator(WeightGenerator):
    """One hidden layer, as wide as P parameters allow. Raises ValueError if that is none."""

    bits: Tensor

    def __init__(self, count: int, parameters: int, activation: str = "relu") -> None:
        super().__init__(count)
        inputs = max(1, (count - 1).bit_length())
        hidden = (parameters - 1) // (inputs + 2)
        if hidden < 1:
            raise ValueError(
                f"weights.parameters={parameters} must be at least {inputs + 3}: "
                f"one hidden unit behind the {inputs} bits of {count} indices"
            )
        self.network = mapping_network(inputs, (hidden,), 1, activation)
        self.register_buffer("bits", index_bits(count, inputs), persistent=False)
        _, bias, *_ = self.network.parameters()
        nn.init.uniform_(
            bias, -1.0, 1.0
        )  # kinks at different places: torch's biases are small beside ±1 bits

    def forward(self) -> Tensor:
        weights = self.network(self.bits).squeeze(-1)
        return weights - weights.mean()

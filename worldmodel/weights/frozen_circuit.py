"""`frozen_circuit`, a control: `quantum_train` whose circuit stays as drawn; its mapping learns."""

from qdreamer.configs.schema import settings
from qdreamer.worldmodel.weights.generator import WEIGHTS
from qdreamer.worldmodel.weights.quantum_train import QuantumTrain, QuantumTrainConfig


@settings
class FrozenCircuitConfig(QuantumTrainConfig):
    """As of `quantum_train`."""


@WEIGHTS.register("frozen_circuit", FrozenCircuitConfig)
class FrozenCircuit(QuantumTrain):
    """See the module's docstring."""

    trains_circuit = False

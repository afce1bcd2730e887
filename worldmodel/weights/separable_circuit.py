"""`separable_circuit`, a control: `quantum_train` without entangling gates.

Its probabilities are products of one number per bit, which a classical computer gets without a state.
"""

from qdreamer.configs.schema import settings
from qdreamer.worldmodel.weights.generator import WEIGHTS
from qdreamer.worldmodel.weights.quantum_train import QuantumTrain, QuantumTrainConfig


@settings
class SeparableCircuitConfig(QuantumTrainConfig):
    """As of `quantum_train`; a block has 3n angles, so twice as many blocks make equal sizes."""


@WEIGHTS.register("separable_circuit", SeparableCircuitConfig)
class SeparableCircuit(QuantumTrain):
    """See the module's docstring."""

    ring = False

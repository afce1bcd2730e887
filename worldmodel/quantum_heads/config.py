"""Which heads get a circuit, and how: `heads=classical` (none) or `heads=quantum`."""

from typing import Annotated, Literal

from pydantic import Field

from qdreamer.configs.registry import PartConfig, Registry
from qdreamer.configs.schema import Float, Int, settings
from qdreamer.worldmodel.networks.layers import MLPHead
from qdreamer.worldmodel.quantum_heads.layer import Rule
from qdreamer.worldmodel.quantum_heads.paths import PATHS
from qdreamer.worldmodel.quantum_heads.patterns import PATTERNS

Head = Literal["actor", "critic", "reward", "continue"]


@settings
class HeadsConfig(PartConfig):
    """What both choices have."""

    modules: tuple[Head, ...] = ()

    def insert(self, head: MLPHead) -> None:
        """Put something beside or behind the head's layers."""


HEADS: Registry[type[HeadsConfig]] = Registry("heads", "qdreamer.worldmodel.quantum_heads", "classical")


@settings
class ClassicalConfig(HeadsConfig):
    """Heads are MLPs."""

    name: str = "classical"


@settings
class QuantumHeadsConfig(HeadsConfig):
    modules: tuple[Head, ...] = ("actor",)
    pattern: Annotated[str, PATTERNS]
    path: Annotated[str, PATHS]  # the circuit, or a control in its place
    qubits: Int = Field(ge=2, le=16)  # n
    blocks: Int = Field(ge=1)  # L
    normalize: Rule
    device: str | None  # of PennyLane; null: our own simulation
    shots: Int | None = Field(ge=1)  # null: exact
    gradient: Float = Field(default=1.0, ge=0.0)  # by which gradients into the path are multiplied

    def insert(self, head: MLPHead) -> None:
        settings = {key: getattr(self, key) for key in ("blocks", "normalize", "device", "shots")}
        path = PATHS[self.path].part(self.qubits, **settings)
        units, inputs = head.body.width, features_of(head)
        made = PATTERNS[self.pattern].part(head.body, inputs, units, path, self.qubits)
        made.gradient = self.gradient
        head.add_module("body", made)


for _name, _config in (("classical", ClassicalConfig), ("quantum", QuantumHeadsConfig)):
    HEADS.register(_name, _config)(_config)  # the config is the part: it knows how to insert itself


def features_of(head: MLPHead) -> int:
    """Return F."""
    first = head.body.layers()[0].weight if len(head.body) else head.out.weight
    return first.shape[1]

"""Which heads get a circuit, and how: `heads=classical` (none) or `heads=quantum`."""

import inspect
from typing import Annotated, Literal

from pydantic import Field

from qdreamer.configs.registry import PartConfig, Registry
from qdreamer.configs.schema import Float, Int, settings
from qdreamer.worldmodel.networks.layers import MLPHead
from qdreamer.worldmodel.quantum_heads.layer import Rule
from qdreamer.worldmodel.quantum_heads.paths import PATHS
from qdreamer.worldmodel.quantum_heads.patterns import PATTERNS

Head = Literal["actor", "critic", "reward", "continue"]
CIRCUIT = ("blocks", "normalize", "device", "shots")
"""Settings that a path may take beside its number of qubits."""


@settings
class HeadsConfig(PartConfig):
    """What both choices have."""

    modules: tuple[Head, ...] = ()

    @property
    def chosen(self) -> tuple[Head, ...]:
        """Heads that get a circuit."""
        return self.modules

    def insert(self, head: MLPHead) -> None:
        """Put something beside or behind the head's layers."""


HEADS: Registry[type[HeadsConfig]] = Registry("heads", "qdreamer.worldmodel.quantum_heads", "classical")


@settings
class ClassicalConfig(HeadsConfig):
    """Heads are MLPs."""

    name: str = "classical"

    @property
    def chosen(self) -> tuple[Head, ...]:
        return ()


@settings
class QuantumHeadsConfig(HeadsConfig):
    modules: Annotated[tuple[Head, ...], Field(min_length=1)] = ("actor",)
    pattern: Annotated[str, PATTERNS]
    path: Annotated[str, PATHS]  # the circuit, or a control in its place
    qubits: Int = Field(ge=2, le=16)  # n
    blocks: Int = Field(ge=1)  # L
    normalize: Rule
    device: str | None  # of PennyLane; null: our own simulation
    shots: Int | None = Field(ge=1)  # null: exact
    gradient: Float = Field(default=1.0, ge=0.0)  # by which gradients into the path are multiplied

    def insert(self, head: MLPHead) -> None:
        make = PATHS[self.path].part
        taken = inspect.signature(make).parameters  # a control has no use for the circuit's settings
        rest = any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values())
        settings = {key: getattr(self, key) for key in CIRCUIT if rest or key in taken}
        path = make(self.qubits, **settings)
        units, inputs = head.body.width, features_of(head)
        made = PATTERNS[self.pattern].part(head.body, inputs, units, path, self.qubits)
        if getattr(make, "passes_gradients", True):  # else the setting is not read, and is refused
            made.gradient = self.gradient
        head.add_module("body", made)


for _name, _config in (("classical", ClassicalConfig), ("quantum", QuantumHeadsConfig)):
    HEADS.register(_name, _config)(_config)  # the config is the part: it knows how to insert itself


def features_of(head: MLPHead) -> int:
    """Return F."""
    first = head.body.layers()[0].weight if len(head.body) else head.out.weight
    return first.shape[1]

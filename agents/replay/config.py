"""Typed settings of the replay buffer, one class for each sampler. Values live in configs/replay."""

from dataclasses import dataclass, field
from typing import ClassVar

SIGNALS = ("model", "td", "reward")
TRANSFORMS = ("power", "rank", "boltzmann", "rotation")


@dataclass(frozen=True)
class UniformReplay:
    """Every sequence is equally likely."""

    name: str = field(metadata={"choices": ("uniform",)})
    capacity: int = field(metadata={"min": 2})  # rows over all environments
    mapped: bool  # observations in a file of the run directory instead of in memory
    online: bool  # new sequences are replayed once before uniform draws

    signal: ClassVar[None] = None  # errors of sequences are not used


@dataclass(frozen=True)
class Priority:
    """What prioritized and quantum replay share: how sequences are weighed."""

    capacity: int = field(metadata={"min": 2})
    mapped: bool
    signal: str = field(metadata={"choices": SIGNALS})
    transform: str = field(metadata={"choices": TRANSFORMS})
    alpha: float = field(metadata={"min": 0.0, "max": 4.0})  # exponent of power and rank
    offset: float = field(metadata={"above": 0.0})  # of power and rotation: none is ever forgotten
    temperature: float = field(metadata={"above": 0.0})  # of boltzmann, in deviations of the errors
    prepare: tuple[float, float] = field(metadata={"above": 0.0})  # ζ₁, ζ₂ of rotation
    depreciate: tuple[float, float] = field(metadata={"min": 0.0})  # τ₁, τ₂ of rotation
    bonus: float = field(metadata={"min": 0.0})  # c of c·decay^visits, added to the weight
    decay: float = field(metadata={"above": 0.0, "max": 1.0})
    beta: tuple[float, float] = field(metadata={"min": 0.0, "max": 1.0})  # first and last
    beta_updates: int = field(metadata={"min": 0})  # from the first to the last


@dataclass(frozen=True)
class PrioritizedReplay(Priority):
    """Sequences are drawn by what the learner measured on them; with a visit bonus: curious replay."""

    name: str = field(metadata={"choices": ("prioritized", "curious")})
    stratified: bool  # one draw from each of B equal parts


@dataclass(frozen=True)
class QuantumReplay(Priority):
    """The same tree measured as a quantum state: in this process, or by circuits."""

    name: str = field(metadata={"choices": ("quantum",)})
    # Without a floor, blocks that no shot hit are out of reach, and the weights are no longer exact.
    floor: float = field(metadata={"min": 1e-3, "below": 1.0})  # share of uniform draws
    # The rest is for circuits; quantum=statevector measures the whole tree.
    qubits: int = field(metadata={"min": 1, "max": 12})  # n: 2^n blocks, 2^n − 2 CX
    shots: int = field(metadata={"min": 1, "max": 10_000_000})  # of a job
    reuse: float = field(metadata={"above": 0.0})  # draws from each shot before the next job
    wait: bool  # training waits for every job: reproducible on simulators


ReplayConfig = UniformReplay | PrioritizedReplay | QuantumReplay

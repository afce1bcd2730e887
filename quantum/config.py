"""Typed settings of the quantum backends. Values live in configs/quantum; credentials never do."""

from typing import ClassVar, Literal

from pydantic import Field

from qdreamer.configs.registry import PartConfig
from qdreamer.configs.schema import Bool, Float, Int, settings


@settings
class NoiseConfig:
    """Strengths of the noise channels of `aer_noisy` and of PennyLane's default.mixed.

    After every gate each of its qubits passes through the channels below; z-rotations are frame
    changes on hardware and noiseless. All zero with a device named: that device's noise.
    """

    depolarizing_one: Float = Field(ge=0.0, le=1.0)  # probability, one-qubit gates
    depolarizing_two: Float = Field(ge=0.0, le=1.0)  # probability, two-qubit gates
    amplitude_damping: Float = Field(ge=0.0, le=1.0)  # γ
    phase_damping: Float = Field(ge=0.0, le=1.0)  # λ
    t1: Float = Field(ge=0.0)  # µs; 0: no thermal relaxation
    t2: Float = Field(ge=0.0)  # µs; 0: 2·t1, its limit
    time_one: Float = Field(ge=0.0)  # ns, duration of one-qubit gates
    time_two: Float = Field(ge=0.0)  # ns, duration of two-qubit gates
    readout: Float = Field(ge=0.0, le=0.5)  # probability of reading the wrong bit

    def __post_init__(self) -> None:
        if self.t2 > 2 * self.t1:
            raise ValueError(f"quantum.noise.t2={self.t2} must not exceed 2·quantum.noise.t1={2 * self.t1}")

    @property
    def is_noiseless(self) -> bool:
        """True when nothing is switched on."""
        strengths = (self.depolarizing_one, self.depolarizing_two, self.amplitude_damping)
        return not any((*strengths, self.phase_damping, self.t1, self.readout))


@settings
class QuantumConfig(PartConfig):
    """Where circuits run, how often, and what they may cost: one class for every backend.

    Backends have the same keys and say which of them they take; what a backend can do is asked of its
    config by what stands below `takes`, never by its name.
    """

    device: str | None  # aer_noisy: a fake device; pennylane, ibm: a device; ibm: least_busy
    method: Literal["automatic", "statevector", "density_matrix", "matrix_product_state"]  # of Aer
    shots: Int = Field(ge=1)  # per circuit
    noise: NoiseConfig
    dynamical_decoupling: Bool  # ibm only
    twirling: Bool  # ibm only: of two-qubit gates and of measurements
    mitigation: Bool  # readout errors, by tensored inversion
    optimization_level: Int = Field(ge=0, le=3)  # of the transpiler
    min_fidelity: Float = Field(ge=0.0, le=1.0)  # real devices: drop couplings below it
    budget_shots: Int | None = Field(ge=0)  # of a whole run; null: no limit
    budget_seconds: Float | None = Field(ge=0.0)  # of execution; null: no limit
    timeout: Float = Field(gt=0.0)  # seconds from submission to result
    retries: Int = Field(ge=0, le=100)  # after the first attempt
    force: Bool  # run circuits that today's devices cannot carry
    dry_run: Bool  # print what a run would cost, and stop

    takes: ClassVar[frozenset[str]] = frozenset({"device", "noise", "suppression", "mitigation"})
    needs_device: ClassVar[str | None] = None  # an example, where a device must be named
    in_process: ClassVar[bool] = False  # circuits need not be run at all: this process knows their outcomes
    samples: ClassVar[bool] = True  # attention=circuit acts by shots, and not by PennyLane's probabilities
    fits_problems: ClassVar[bool] = False  # QAOA cuts problems to what the device carries: `min_fidelity`

    @property
    def remote(self) -> bool:
        """True when jobs run on a real device, behind a queue."""
        return False

    def __post_init__(self) -> None:
        if self.device is None and self.needs_device is not None:
            example = f"quantum.device={self.needs_device}"
            raise ValueError(f"quantum={self.name} needs quantum.device, as {example}")
        if "device" not in self.takes and self.device is not None:
            raise ValueError(
                f"quantum={self.name} takes no quantum.device={self.device}: for the noise of a device "
                "use quantum=aer_noisy, for the device itself quantum=ibm"
            )
        if "noise" not in self.takes and not self.noise.is_noiseless:
            raise ValueError(f"quantum={self.name} takes no quantum.noise: use quantum=aer_noisy")
        if "suppression" not in self.takes and (self.dynamical_decoupling or self.twirling):
            raise ValueError(f"quantum={self.name} has no dynamical_decoupling or twirling: use quantum=ibm")
        if "mitigation" not in self.takes and self.mitigation:
            raise ValueError(f"quantum={self.name} has no readout errors: leave out quantum.mitigation")

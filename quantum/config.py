"""Typed settings of the quantum backends. Values live in configs/quantum; credentials never do."""

from dataclasses import dataclass, field

METHODS = ("automatic", "statevector", "density_matrix", "matrix_product_state")
BACKENDS = ("statevector", "aer", "aer_noisy", "pennylane", "ibm")


@dataclass(frozen=True)
class NoiseConfig:
    """Strengths of the noise channels of `aer_noisy` and of PennyLane's default.mixed.

    After every gate each of its qubits passes through the channels below; z-rotations are frame
    changes on hardware and noiseless. All zero with a device named: that device's noise.
    """

    depolarizing_one: float = field(metadata={"min": 0.0, "max": 1.0})  # probability, one-qubit gates
    depolarizing_two: float = field(metadata={"min": 0.0, "max": 1.0})  # probability, two-qubit gates
    amplitude_damping: float = field(metadata={"min": 0.0, "max": 1.0})  # γ
    phase_damping: float = field(metadata={"min": 0.0, "max": 1.0})  # λ
    t1: float = field(metadata={"min": 0.0})  # µs; 0: no thermal relaxation
    t2: float = field(metadata={"min": 0.0})  # µs; 0: 2·t1, its limit
    time_one: float = field(metadata={"min": 0.0})  # ns, duration of one-qubit gates
    time_two: float = field(metadata={"min": 0.0})  # ns, duration of two-qubit gates
    readout: float = field(metadata={"min": 0.0, "max": 0.5})  # probability of reading the wrong bit

    def __post_init__(self) -> None:
        if self.t2 > 2 * self.t1:
            raise ValueError(f"quantum.noise.t2={self.t2} must not exceed 2·quantum.noise.t1={2 * self.t1}")

    @property
    def is_noiseless(self) -> bool:
        """Whether nothing is switched on."""
        strengths = (self.depolarizing_one, self.depolarizing_two, self.amplitude_damping)
        return not any((*strengths, self.phase_damping, self.t1, self.readout))


@dataclass(frozen=True)
class QuantumConfig:
    """Where circuits run, how often, and what they may cost."""

    name: str = field(metadata={"choices": BACKENDS})
    device: str | None  # aer_noisy: a fake device; pennylane, ibm: a device; ibm: least_busy
    method: str = field(metadata={"choices": METHODS})  # of Aer
    shots: int = field(metadata={"min": 1})  # per circuit
    noise: NoiseConfig
    dynamical_decoupling: bool  # ibm only
    twirling: bool  # ibm only: of two-qubit gates and of measurements
    mitigation: bool  # readout errors, by tensored inversion
    optimization_level: int = field(metadata={"min": 0, "max": 3})  # of the transpiler
    min_fidelity: float = field(metadata={"min": 0.0, "max": 1.0})  # real devices: drop couplings below it
    budget_shots: int | None = field(metadata={"min": 0})  # of a whole run; null: no limit
    budget_seconds: float | None = field(metadata={"min": 0.0})  # of execution; null: no limit
    timeout: float = field(metadata={"above": 0.0})  # seconds from submission to result
    retries: int = field(metadata={"min": 0, "max": 100})  # after the first attempt
    force: bool  # run circuits that today's devices cannot carry
    dry_run: bool  # print what a run would cost, and stop

    def __post_init__(self) -> None:
        if self.device is None and self.name in ("pennylane", "ibm"):
            example = {"pennylane": "lightning.qubit", "ibm": "least_busy"}[self.name]
            raise ValueError(f"quantum={self.name} needs quantum.device, as quantum.device={example}")
        if self.name in ("statevector", "aer") and self.device is not None:
            raise ValueError(
                f"quantum={self.name} takes no quantum.device={self.device}: for the noise of a device "
                "use quantum=aer_noisy, for the device itself quantum=ibm"
            )
        if not self.noise.is_noiseless and (self.name not in ("aer_noisy", "pennylane")):
            raise ValueError(f"quantum={self.name} takes no quantum.noise: use quantum=aer_noisy")
        if self.name == "aer_noisy" and self.device is not None and not self.noise.is_noiseless:
            raise ValueError(
                f"quantum.device={self.device} brings its own noise: leave out quantum.noise, or the device"
            )
        if self.name == "pennylane" and not self.noise.is_noiseless and self.device != "default.mixed":
            raise ValueError("quantum.noise needs quantum.device=default.mixed with quantum=pennylane")
        if (self.dynamical_decoupling or self.twirling) and self.name != "ibm":
            raise ValueError(f"quantum={self.name} has no dynamical_decoupling or twirling: use quantum=ibm")
        if self.mitigation and self.name not in ("aer_noisy", "ibm"):
            raise ValueError(f"quantum={self.name} has no readout errors: leave out quantum.mitigation")

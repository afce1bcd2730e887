"""Typed, frozen settings of a run. All values live in configs/*.yaml; ranges live here."""

from dataclasses import dataclass, field

from qdreamer.agents.optim.optimizer_config import HybridConfig, OptimizerConfig
from qdreamer.agents.replay.config import QuantumReplay, ReplayConfig
from qdreamer.envs.config import EnvConfig
from qdreamer.quantum.config import QuantumConfig
from qdreamer.worldmodel.attention.config import AttentionConfig, CircuitConfig
from qdreamer.worldmodel.config import SequenceConfig, TransformerConfig, WorldModelConfig, check_keys

LOSSES = ("policy", "value", "replay_value")
ACTION_KINDS = ("discrete", "continuous")
DEVICE_QUBITS = 5  # state loading costs 2^n − 2 CX, and real devices carry some thirty


@dataclass(frozen=True)
class AgentConfig:
    """Actor, critic and imagination (Hafner et al. 2023, Methods)."""

    name: str
    units: int = field(metadata={"min": 1})
    actor_layers: int = field(metadata={"min": 0})
    critic_layers: int = field(metadata={"min": 0})
    imagination_horizon: int = field(metadata={"min": 1})  # H
    imagination_starts: int = field(metadata={"min": 2})  # start states per sequence, the last ones
    unimix: float = field(metadata={"min": 0.0, "max": 0.5})
    entropy: dict[str, float] = field(metadata={"min": 0.0})  # exactly the keys ACTION_KINDS
    min_std: float = field(metadata={"above": 0.0})
    max_std: float = field(metadata={"above": 0.0})
    average_rate: float = field(metadata={"above": 0.0, "max": 1.0})  # of the actor that is evaluated
    lambda_: float = field(metadata={"min": 0.0, "max": 1.0})
    slow_rate: float = field(metadata={"above": 0.0, "max": 1.0})
    slow_scale: float = field(metadata={"min": 0.0})
    return_rate: float = field(metadata={"above": 0.0, "max": 1.0})
    return_limit: float = field(metadata={"above": 0.0})
    return_percentiles: tuple[float, float]
    loss_scales: dict[str, float] = field(metadata={"min": 0.0})  # exactly the keys LOSSES

    def __post_init__(self) -> None:
        check_keys("agent.loss_scales", self.loss_scales, LOSSES)
        check_keys("agent.entropy", self.entropy, ACTION_KINDS)
        low, high = self.return_percentiles
        if not 0.0 <= low < high <= 100.0:
            raise ValueError(f"agent.return_percentiles=[{low}, {high}] must rise from 0 to 100")
        if self.min_std > self.max_std:
            raise ValueError(f"agent.min_std={self.min_std} must not exceed agent.max_std={self.max_std}")


@dataclass(frozen=True)
class TrainConfig:
    """How much is learned from how much experience."""

    batch_size: int = field(metadata={"min": 1})  # B
    batch_length: int = field(metadata={"min": 2})  # T
    replay_ratio: float = field(metadata={"min": 0.0})  # replayed time steps per environment step
    forget: float = field(metadata={"min": 0.0, "max": 1.0})  # share of sequences replayed without memory
    prefill: int = field(metadata={"min": 0})  # environment steps of random actions before learning


@dataclass(frozen=True)
class EvaluationConfig:
    """Evaluation on episode seeds that training never sees."""

    every: int = field(metadata={"min": 1})  # environment steps
    episodes: int = field(metadata={"min": 1})
    seed: int = field(metadata={"min": 0})
    max_steps: int = field(metadata={"min": 1})  # where longer episodes are cut
    deterministic: bool  # take the actor's mode instead of a sample
    context: int = field(metadata={"min": 1})  # observed steps before open-loop prediction
    horizon: int = field(metadata={"min": 1})  # open-loop steps


@dataclass(frozen=True)
class LoggingConfig:
    """What is written, how often (in environment steps)."""

    every: int = field(metadata={"min": 1})
    tensorboard: bool
    pictures_every: int = field(metadata={"min": 0})  # 0: never
    video_every: int = field(metadata={"min": 0})  # 0: never; the end of the run counts
    video_frames: int = field(metadata={"min": 1})


@dataclass(frozen=True)
class CheckpointConfig:
    """Checkpoints, in environment steps; also written at the end and on Ctrl-C."""

    every: int = field(metadata={"min": 1})


@dataclass(frozen=True)
class Config:
    """A whole run."""

    seed: int = field(metadata={"min": 0, "max": 2**31 - 1})
    steps: int = field(metadata={"min": 1})  # environment steps
    device: str
    threads: int = field(metadata={"min": 1, "max": 1024})
    kernels: bool  # fused kernels on a CPU, compiled on first use
    precision: str = field(metadata={"choices": ("float32", "bfloat16")})  # of matrix products
    runs: str
    resume: str | None
    env: EnvConfig
    train: TrainConfig  # before what takes its values from here: errors then name what was written
    world_model: WorldModelConfig
    agent: AgentConfig
    sequence: SequenceConfig
    attention: AttentionConfig
    replay: ReplayConfig
    optimizer: OptimizerConfig | HybridConfig
    quantum: QuantumConfig
    evaluation: EvaluationConfig
    logging: LoggingConfig
    checkpoint: CheckpointConfig

    def __post_init__(self) -> None:
        if self.sequence.name == "transformer" and self.world_model.posterior != "decoupled":
            raise ValueError(
                f"world_model.posterior={self.world_model.posterior} needs sequence=gru: "
                "sequence=transformer needs the latents of all steps beforehand, so decoupled"
            )
        if self.agent.imagination_starts > self.train.batch_length:
            raise ValueError(
                f"agent.imagination_starts={self.agent.imagination_starts} must not exceed "
                f"train.batch_length={self.train.batch_length}"
            )
        rows_per_env = self.replay.capacity // self.env.num_envs
        if rows_per_env < self.train.batch_length + 1:
            raise ValueError(
                f"replay.capacity={self.replay.capacity} leaves {rows_per_env} rows for each of "
                f"env.num_envs={self.env.num_envs}: at least train.batch_length + 1 = "
                f"{self.train.batch_length + 1} are needed"
            )
        self._check_loading()
        self._check_attention()

    def _check_loading(self) -> None:
        """Whether a real device could load the replay's amplitudes."""
        replay, quantum = self.replay, self.quantum
        if not isinstance(replay, QuantumReplay) or quantum.name != "ibm" or quantum.force:
            return
        fake = quantum.device is not None and quantum.device.lower().startswith("fake")
        if not fake and replay.qubits > DEVICE_QUBITS:
            raise ValueError(
                f"replay.qubits={replay.qubits} needs {2**replay.qubits - 2} CX, more than real devices "
                f"carry: use replay.qubits={DEVICE_QUBITS}, or quantum.force=true"
            )

    def _check_attention(self) -> None:
        """Whether overlaps can be measured as often as an agent asks for them."""
        sequence, quantum = self.sequence, self.quantum
        if not isinstance(sequence, TransformerConfig) or not isinstance(self.attention, CircuitConfig):
            return
        if sequence.head & (sequence.head - 1):
            raise ValueError(f"sequence.head={sequence.head} must be a power of two for attention=circuit")
        if quantum.name == "ibm" and not (quantum.device or "").lower().startswith("fake"):
            raise ValueError(
                f"attention=circuit asks at every step, which quantum.device={quantum.device} cannot answer: "
                "use quantum.device=FakeGuadalupeV2, or attention=born"
            )

"""Typed, frozen settings of a run. All values live in configs/*.yaml; a part's ranges live with the part."""

from typing import Annotated, Literal

from pydantic import Field

from qdreamer.agents.config import AgentConfig
from qdreamer.agents.interaction.evaluation import EvaluationConfig
from qdreamer.agents.optim.optimizer import OPTIMIZERS, OptimizerConfig
from qdreamer.agents.replay.config import SAMPLERS, ReplayConfig
from qdreamer.agents.reporting.reporting import LoggingConfig
from qdreamer.configs.schema import LONGEST, Bool, Float, Int, settings
from qdreamer.envs.config import EnvConfig
from qdreamer.quantum.circuits.backend import BACKENDS
from qdreamer.quantum.config import QuantumConfig
from qdreamer.worldmodel.attention.config import ATTENTION, AttentionConfig
from qdreamer.worldmodel.config import WorldModelConfig
from qdreamer.worldmodel.quantum_heads.config import HEADS, ClassicalConfig, HeadsConfig
from qdreamer.worldmodel.sequence_models.interface import SEQUENCE_MODELS, SequenceConfig
from qdreamer.worldmodel.weights.direct import DirectConfig
from qdreamer.worldmodel.weights.generator import WEIGHTS, WeightsConfig


@settings
class TrainConfig:
    """How much is learned from how much experience."""

    batch_size: Int = Field(ge=1, le=LONGEST)  # B
    batch_length: Int = Field(ge=2, le=LONGEST)  # T
    replay_ratio: Float = Field(ge=0.0, le=1e6)  # replayed time steps per environment step
    forget: Float = Field(ge=0.0, le=1.0)  # share of sequences replayed without memory
    prefill: Int = Field(ge=0)  # environment steps of random actions before learning
    pink_noise: Bool = False  # by which continuous actions are drawn, chosen and random ones
    collect: Bool = True  # false: learn from replay.initial alone; a step is then one without the environment

    @property
    def begin(self) -> int:
        """Steps before the first update."""
        return self.prefill if self.collect else 0


@settings
class CheckpointConfig:
    """Checkpoints, in environment steps; also written at the end and on Ctrl-C."""

    every: Int = Field(ge=1)


@settings
class Config:
    """A whole run."""

    seed: Int = Field(ge=0)
    steps: Int = Field(ge=1)  # environment steps
    device: str
    threads: Int = Field(ge=1, le=1024)
    kernels: Bool  # fused kernels on a CPU, compiled on first use
    precision: Literal["float32", "bfloat16"]  # of matrix products
    runs: str
    resume: str | None
    env: EnvConfig
    train: TrainConfig  # before what takes its values from here: errors then name what was written
    world_model: WorldModelConfig
    agent: AgentConfig
    sequence: Annotated[SequenceConfig, SEQUENCE_MODELS]
    attention: Annotated[AttentionConfig, ATTENTION]
    replay: Annotated[ReplayConfig, SAMPLERS]
    optimizer: Annotated[OptimizerConfig, OPTIMIZERS]
    quantum: Annotated[QuantumConfig, BACKENDS]
    # Sections with a default came later: at their defaults they change no run's fingerprint.
    weights: Annotated[WeightsConfig, WEIGHTS] = DirectConfig()
    heads: Annotated[HeadsConfig, HEADS] = ClassicalConfig()
    evaluation: EvaluationConfig
    logging: LoggingConfig
    checkpoint: CheckpointConfig

    def __post_init__(self) -> None:
        if not self.train.collect and self.replay.initial is None:
            raise ValueError(
                "train.collect=false needs replay.initial=…: without it there is nothing to learn from"
            )
        if self.agent.imagination_starts > self.train.batch_length:
            raise ValueError(
                f"agent.imagination_starts={self.agent.imagination_starts} must not exceed "
                f"train.batch_length={self.train.batch_length}"
            )
        both = set(self.weights.chosen) & set(self.heads.chosen)
        if both:
            raise ValueError(
                f"weights.modules and heads.modules both name {min(both)}: a head's weights are made, or it "
                "has a circuit"
            )
        for part in (self.sequence, self.replay, self.optimizer, self.quantum):
            part.check(self)  # `attention` is the sequence model's business

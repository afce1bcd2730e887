"""Typed settings of the optimizers, one class for each. Values live in configs/optimizer."""

from dataclasses import dataclass, field

from qdreamer.agents.optim.quadratic_model import Levels

SOLVERS = ("qaoa", "exact", "greedy", "random", "annealing", "scalar")
BLOCKS = ("module", "balanced")
MAX_EXACT = 20  # qubits that brute force takes
MAX_FIXED = 8  # layers that fixed angles are known for


@dataclass(frozen=True)
class OptimizerConfig:
    """LaProp with adaptive gradient clipping; one optimizer for all parameters."""

    name: str = field(metadata={"choices": ("laprop",)})
    lr: float = field(metadata={"above": 0.0})
    beta1: float = field(metadata={"min": 0.0, "below": 1.0})
    beta2: float = field(metadata={"min": 0.0, "below": 1.0})
    eps: float = field(metadata={"above": 0.0})
    agc: float = field(metadata={"min": 0.0})  # 0 switches clipping off
    agc_pmin: float = field(metadata={"above": 0.0})
    warmup: int = field(metadata={"min": 0})  # updates


@dataclass(frozen=True)
class HybridConfig(OptimizerConfig):
    """LaProp, and a search for a better direction of the world model's step."""

    name: str = field(metadata={"choices": ("hybrid",)})
    every: int = field(metadata={"min": 1})  # K, updates
    solver: str = field(metadata={"choices": SOLVERS})
    num_qubits: int = field(metadata={"min": 1, "max": 24})
    p_layers: int = field(metadata={"min": 1, "max": 100})
    angles: str = field(metadata={"choices": ("fixed", "ramp", "warm", "optimized")})
    levels: tuple[float, ...]  # multipliers that a block may take: two, or four of two qubits a block
    blocks: str = field(metadata={"choices": BLOCKS})
    slice: int = field(metadata={"min": 1})  # sequences of the batch that curvature is measured on
    fresh: int = field(metadata={"min": 1})  # sequences that a step is checked on
    epsilon: float = field(metadata={"above": 0.0})  # length of the differences, in proposed steps
    reuse: bool  # apply the last accepted multipliers between searches, unchecked
    patience: int = field(metadata={"min": 0})  # updates after which a job's result is too late
    wait: bool  # training waits for every job: reproducible on simulators

    def __post_init__(self) -> None:
        try:
            levels = Levels.of(self.levels)
        except ValueError as error:
            raise ValueError(f"optimizer.{error}") from error
        if self.num_qubits % levels.bits:
            raise ValueError(
                f"optimizer.num_qubits={self.num_qubits} must be a multiple of {levels.bits}: "
                f"{len(self.levels)} levels take {levels.bits} qubits a block"
            )
        if self.solver == "exact" and self.num_qubits > MAX_EXACT:
            raise ValueError(
                f"optimizer.num_qubits={self.num_qubits} is too many for optimizer.solver=exact: "
                f"use {MAX_EXACT}, or another solver"
            )
        if self.angles != "ramp" and self.p_layers > MAX_FIXED:
            raise ValueError(
                f"optimizer.p_layers={self.p_layers} needs optimizer.angles=ramp: "
                f"fixed angles are known up to {MAX_FIXED} layers"
            )

"""One part of every kind, as a package outside of QDreamer would add it."""

from collections import Counter
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from qdreamer.agents.optim.optimizer import OPTIMIZERS, OptimizerConfig
from qdreamer.agents.replay.config import SAMPLERS, ReplayConfig
from qdreamer.agents.replay.sampler import Starts
from qdreamer.agents.replay.uniform import UniformSampler
from qdreamer.agents.reporting.writers.writer import WRITERS, Writer
from qdreamer.configs.schema import Float, Int, settings
from qdreamer.quantum.backends.statevector import Statevector
from qdreamer.quantum.circuits.backend import BACKENDS
from qdreamer.quantum.config import QuantumConfig
from qdreamer.quantum.qaoa.controls import ClassicalSolver
from qdreamer.quantum.qaoa.ising import best_of
from qdreamer.quantum.qaoa.solver import SOLVERS
from qdreamer.worldmodel.attention.config import ATTENTION, AttentionConfig
from qdreamer.worldmodel.attention.kernel import AttentionKernel
from qdreamer.worldmodel.sequence_models.interface import SEQUENCE_MODELS, SequenceConfig
from qdreamer.worldmodel.sequence_models.memory import NoMemory
from qdreamer.worldmodel.weights.generator import WEIGHTS, WeightGenerator, WeightsConfig

USED: Counter[str] = Counter()  # calls of each part, for the test


@settings
class LeakyConfig(SequenceConfig):
    """What it leaves open (posterior, width, …) is as in sequence=gru."""

    leak: Float = Field(default=0.9, ge=0.0, lt=1.0)


@SEQUENCE_MODELS.register("mine", LeakyConfig)
class Leaky(nn.Module):
    """h_t = leak·h_{t−1} + (1 − leak)·tanh(W z_{t−1} + V a_{t−1})."""

    memory = NoMemory()

    def __init__(self, stoch: int, action: int, deter: int, leak: float) -> None:
        super().__init__()
        self.deter, self.leak = deter, leak
        self.stoch_in = nn.Linear(stoch, deter)
        self.action_in = nn.Linear(action, deter)

    @classmethod
    def make(cls, config, attention, stoch, action, quantum):
        return cls(stoch, action, config.deter, config.leak)

    def initial(self, batch: int) -> Tensor:
        return self.stoch_in.bias.new_zeros(batch, self.deter)

    def action_embedding(self, action: Tensor, is_first: Tensor | None) -> Tensor:
        return self.action_in(action if is_first is None else action * (1.0 - is_first).unsqueeze(-1))

    def step(self, stoch, action_embedding, is_first, state):
        USED["sequence"] += 1
        if is_first is not None:
            keep = (1.0 - is_first).unsqueeze(-1)
            state, stoch = state * keep, stoch * keep
        h = torch.lerp(torch.tanh(self.stoch_in(stoch) + action_embedding), state, self.leak)
        return h, h

    def observe(self, stoch, action, is_first, state):
        embedding, hs = self.action_embedding(action, is_first), []
        for t in range(stoch.shape[1]):
            _, state = self.step(stoch[:, t], embedding[:, t], is_first[:, t], state)
            hs.append(state)
        h = torch.stack(hs, 1)
        return h, h

    def inspect(self, h, stoch, action, is_first):
        return []

    def last(self, states: Tensor) -> Tensor:
        return states[:, -1]

    def select(self, states: Tensor, b: Tensor | None, t: Tensor) -> Tensor:
        if b is None:
            return states.gather(1, t.unsqueeze(-1).expand(-1, -1, self.deter)).flatten(0, 1)
        return states[b, t]

    def native_weights(self) -> None:
        """No kernel knows this model."""

    def native_rollout(self, state: Tensor, memory: Any, horizon: int) -> None:
        """Nor its rollouts."""

    def native_filter(self, memory: Any) -> None:
        """Nor its steps."""

    def schedule(self, update: int) -> None:
        """Nothing follows a schedule."""

    def pack(self, state: Tensor) -> Tensor:
        return state

    def unpack(self, packed: Tensor) -> Tensor:
        return packed


@settings
class CauchyConfig(AttentionConfig):
    width: Float = Field(default=1.0, gt=0.0)

    def arguments(self, quantum: Any) -> dict[str, Any]:
        return {"scale": self.width}


@ATTENTION.register("mine", CauchyConfig)
class Cauchy(AttentionKernel):
    """κ = 1/(1 + |q − k|²/scale²)."""

    def __init__(self, heads: int, width: int, scale: float = 1.0) -> None:
        super().__init__(heads, width)
        self.scale = scale

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        USED["attention"] += 1
        return -torch.log1p(torch.cdist(q, k).square() / self.scale**2)


@settings
class NewestConfig(ReplayConfig):
    among: Int = Field(default=32, ge=1)  # starts


@SAMPLERS.register("mine", NewestConfig)
class Newest(UniformSampler):
    """Uniform draws from the newest starts of each environment."""

    def __init__(self, num_envs: int, length: int, among: int, seed: int) -> None:
        super().__init__(num_envs, length, online=False, seed=seed)
        self.among, self.source = among, np.random.default_rng(seed)

    @classmethod
    def make(cls, config, num_envs, length, seed, circuits):
        return cls(num_envs, length, config.among, seed)

    def draw(self, count, eligible):
        USED["replay"] += 1
        counts = eligible.high - eligible.low
        env = self.source.choice(np.flatnonzero(counts), count)
        back = self.source.integers(np.minimum(counts[env], self.among))
        return Starts(env, eligible.high[env] - 1 - back), np.ones(count, np.float32)


@SOLVERS.register("mine")
class AllOrNothing(ClassicalSolver):
    """All bits 0, or all bits 1."""

    def solve(self, ising, shots, generator):
        USED["solver"] += 1
        return best_of(ising, torch.tensor([[0], [1]], dtype=torch.uint8).expand(2, ising.qubits))


@settings
class QueuedConfig(QuantumConfig):
    """Keys without a value here are as in quantum=statevector."""

    takes = frozenset()


@BACKENDS.register("mine", QueuedConfig)
class Queued(Statevector):
    """The exact simulator, as if it were elsewhere: behind a job queue."""

    name, in_process = "mine", False

    def submit(self, tasks, shots, seed):
        USED["backend"] += 1
        return super().submit(tasks, shots, seed)


@settings
class MomentumConfig(OptimizerConfig):
    lr: Float = Field(gt=0.0)  # as in optimizer=laprop: the world model's proposal
    momentum: Float = Field(default=0.9, ge=0.0, lt=1.0)


@OPTIMIZERS.register("mine", MomentumConfig)
class Momentum:
    """One of torch's own optimizers."""

    @staticmethod
    def make(config, agent, seed, circuits):
        USED["optimizer"] += 1
        return torch.optim.SGD(agent.trainable(), lr=config.lr, momentum=config.momentum)


@settings
class TiledConfig(WeightsConfig):
    period: Int = Field(default=64, ge=1)


@WEIGHTS.register("mine", TiledConfig)
class Tiled(WeightGenerator):
    """The same few numbers again and again."""

    def __init__(self, count: int, period: int) -> None:
        super().__init__(count)
        self.values = nn.Parameter(torch.randn(period))

    def forward(self) -> Tensor:
        USED["weights"] += 1
        return self.values.repeat(-(-self.count // len(self.values)))[: self.count]


@WRITERS.register("mine")
class Names(Writer):
    """names.txt: what was logged, each name once."""

    def __init__(self, directory, resume_at, position) -> None:
        super().__init__(directory, resume_at, position)
        self.names: set[str] = set()

    def scalars(self, step: int, values: dict[str, float]) -> None:
        USED["writer"] += 1
        self.names |= values.keys()

    def close(self) -> None:
        (self.directory / "names.txt").write_text("\n".join(sorted(self.names)))

"""One storage, exchangeable samplers."""

from qdreamer.agents.replay.priorities import Priorities
from qdreamer.agents.replay.prioritized import PrioritizedSampler
from qdreamer.agents.replay.sampler import Eligible, Sampler, Starts
from qdreamer.agents.replay.storage import Replay
from qdreamer.agents.replay.uniform import UniformSampler

__all__ = [
    "Eligible",
    "Priorities",
    "PrioritizedSampler",
    "Replay",
    "Sampler",
    "Starts",
    "UniformSampler",
]

"""One storage, exchangeable samplers."""

from agents.replay.priorities import Priorities
from agents.replay.prioritized import PrioritizedSampler
from agents.replay.sampler import Eligible, Sampler, Starts
from agents.replay.storage import Replay
from agents.replay.uniform import UniformSampler

__all__ = [
    "Eligible",
    "Priorities",
    "PrioritizedSampler",
    "Replay",
    "Sampler",
    "Starts",
    "UniformSampler",
]

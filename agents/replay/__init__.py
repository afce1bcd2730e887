"""One storage, exchangeable samplers."""

from agents.replay.sampler import Eligible, Sampler, Starts
from agents.replay.storage import Replay
from agents.replay.uniform import UniformSampler

__all__ = ["Eligible", "Replay", "Sampler", "Starts", "UniformSampler"]

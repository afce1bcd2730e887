"""Random streams: every consumer has its own, all derived from the run's seed."""

from typing import Any

import numpy as np
import torch

WEIGHTS, ACTING, LEARNING, EVALUATION = 5, 6, 7, 8  # NumPy's streams use 0 … 4, 9 and 10, see their owners
SEARCH = 11
SHARD = 1000  # and the rank


def stream_seed(stream: int, seed: int) -> int:
    """Return a 63-bit seed for torch; streams of one run, and equal ones of two runs, are independent."""
    return int(np.random.SeedSequence([stream, seed]).generate_state(1, np.uint64)[0] >> 1)


def shard_seed(seed: int, rank: int) -> int:
    """Return a rank's seed for draws from its own shard of the replay buffer; rank 0's is the run's."""
    return stream_seed(SHARD + rank, seed) if rank else seed


def make_generator(device: torch.device, stream: int, seed: int) -> torch.Generator:
    return torch.Generator(device).manual_seed(stream_seed(stream, seed))


def generator_state(generator: torch.Generator) -> dict[str, Any]:
    return {"device": generator.device.type, "state": generator.get_state()}


def restore_generator(generator: torch.Generator, state: dict[str, Any]) -> None:
    """Go on with a saved stream. On another kind of device no state fits: a fresh stream begins."""
    if state["device"] == generator.device.type:
        generator.set_state(state["state"].cpu())

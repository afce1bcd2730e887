"""Episode seeds. Training seeds are even and evaluation seeds odd, so the two never meet."""

import numpy as np


def _draw(*key: int) -> int:
    return int(np.random.SeedSequence(list(key)).generate_state(1)[0] >> 1)  # 31 bits


def training_seed(run_seed: int, env: int, episode: int) -> int:
    """Return the reset seed of one training episode: even."""
    return _draw(0, run_seed, env, episode) & ~1


def evaluation_seed(evaluation: int, episode: int) -> int:
    """Return the reset seed of one evaluation episode: odd."""
    return _draw(1, evaluation, episode) | 1

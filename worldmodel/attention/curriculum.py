"""From exact to approximate attention while training: o = (1 − mix)·exact + mix·approximate.

A schedule that stops below 1 is mixed training. The mix is a number that the training loop sets.
"""

import math
from collections.abc import Callable

RAMPS: dict[str, Callable[[float], float]] = {
    "linear": lambda x: x,
    "cosine": lambda x: 0.5 - 0.5 * math.cos(math.pi * x),
}


def mix_at(
    step: int, start: int, length: int, ramp: str = "cosine", first: float = 0.0, last: float = 1.0
) -> float:
    """The mix at an update: `first` until `start`, `last` after another `length` updates, a ramp between.

    Raises ValueError for an unknown ramp, a negative length, or mixes outside [0, 1].
    """
    if ramp not in RAMPS:
        raise ValueError(f"ramp={ramp!r} is unknown: choose one of {', '.join(RAMPS)}")
    if length < 0 or not 0.0 <= min(first, last) <= max(first, last) <= 1.0:
        raise ValueError(f"need length ≥ 0 and mixes in [0, 1], not {length}, {first}, {last}")
    progress = float(step >= start) if length == 0 else min(max((step - start) / length, 0.0), 1.0)
    return first + (last - first) * RAMPS[ramp](progress)

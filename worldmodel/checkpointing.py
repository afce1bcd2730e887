"""Gradient checkpointing (Chen et al., arXiv:1604.06174), one replayed sequence at a time.

What a part keeps for its backward pass is thrown away and computed once more when that pass comes; never for
more than one sequence at once, so the most that is held is a B-th of what the part would keep.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint


def by_sequence(part: Callable[..., Any], *inputs: Any) -> Any:
    """Return part(*inputs) for a part that treats each of B sequences alone and draws no random numbers.

    Inputs and output are tensors (B, …), or dictionaries of them.
    """
    first = next(iter(inputs[0].values())) if isinstance(inputs[0], dict) else inputs[0]
    rows = [
        checkpoint(part, *(_row(x, b) for x in inputs), use_reentrant=False, preserve_rng_state=False)
        for b in range(len(first))
    ]
    if isinstance(rows[0], dict):
        return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
    return torch.cat(rows)


def _row(x: Any, b: int) -> Any:
    return {name: value[b : b + 1] for name, value in x.items()} if isinstance(x, dict) else x[b : b + 1]

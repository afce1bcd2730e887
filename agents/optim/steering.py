"""What searches find steers the learning rate of each block until the next one.

    r_b ← clip(r_b · s_b^gain, 1/bound, bound),   lr_b = lr · r_b

s_b is the multiplier of block b's step that was found and accepted, on the step as it now is: with its rate
r_b. So rates move towards where the levels on both sides are as good; without 1 among the levels they swing
around it, by one level to the power of gain at a time.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from qdreamer.agents.optim.parameter_groups import ParameterGroup

BLOCK, BASE = "block", "unsteered_lr"
"""Keys of an optimizer's parameter group: the block that it is a part of, and its rate before steering."""


class Steering:
    """Rates r (M,) of M blocks.

    Args:
        gain: how far a multiplier counts, from 0 to 1. bound: the largest rate; its inverse the smallest.
        begin: updates, the optimizer's warm-up, in which steps are short on purpose: they steer nothing.
    """

    def __init__(self, blocks: int, gain: float, bound: float, begin: int = 0) -> None:
        self.gain, self.bound, self.begin = gain, bound, begin
        self.rates = torch.ones(blocks, dtype=torch.float64)

    def follow(self, multipliers: Tensor, groups: Iterable[dict[str, Any]]) -> None:
        """Take in accepted multipliers (M,), all above 0, and set the rates of an optimizer's groups."""
        rates = self.rates * multipliers.double().cpu() ** self.gain
        self.rates = rates.clamp(1.0 / self.bound, self.bound)
        for group in groups:
            if BLOCK in group:
                group["lr"] = group.setdefault(BASE, group["lr"]) * float(self.rates[group[BLOCK]])


def by_block(groups: Iterable[dict[str, Any]], blocks: Sequence[ParameterGroup]) -> list[dict[str, Any]]:
    """Return an optimizer's groups, each cut into what belongs to each of the blocks, and the rest."""
    number = {id(p): k for k, block in enumerate(blocks) for p in block.parameters}
    found = []
    for group in groups:
        parts: dict[int | None, list[Tensor]] = {}
        for p in group["params"]:
            parts.setdefault(number.get(id(p)), []).append(p)
        for k, parameters in parts.items():
            found.append({**group, "params": parameters, **({} if k is None else {BLOCK: k})})
    return found

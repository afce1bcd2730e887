"""Groups whose gradients differ much in size, update after update: one of them hardly learns, or leads alone.

Only groups that the settings name are compared (`optimizer.groups`): the parts of an ordinary agent differ by
10² to 10³, which an optimizer that divides each gradient by its own size, as LaProp does, hardly feels.
"""

import math
from collections import deque
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

WINDOW, MOST, FACTOR = 100, 80, 10.0
"""Updates that are looked back on; in how many of them norms may not differ, by how much."""
_SMALLEST = 1e-30  # a norm of nothing


class Difference(NamedTuple):
    """The pair of groups that differ most often."""

    larger: str
    smaller: str
    updates: int  # of the window, in which they differ
    ratio: float  # median over it

    def __str__(self) -> str:
        return (
            f"gradients of {self.larger} were {FACTOR:g} times those of {self.smaller} or more in "
            f"{self.updates} of {WINDOW} updates (median {self.ratio:,.0f} ×): world_model.gradients and "
            "heads.gradient scale gradients, optimizer.groups sets learning rates (docs/training.md)"
        )


class Imbalance:
    """Remembers the gradient norms of the last updates; nothing waits for the device before `worst`."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self._norms: deque[Tensor] = deque(maxlen=WINDOW)  # (G,) each

    def add(self, norms: Sequence[Tensor]) -> None:
        """Add an update's norms (), one for each name."""
        if len(self.names) > 1:
            self._norms.append(torch.stack(list(norms)))

    def worst(self) -> Difference | None:
        """Return the groups that differ most often, once a whole window is known; None for fewer than two."""
        if len(self._norms) < WINDOW:
            return None
        logs = torch.stack([norms.cpu() for norms in self._norms]).clamp(min=_SMALLEST).log10()  # (WINDOW, G)
        found = []
        for a, b in combinations(range(len(self.names)), 2):
            apart = logs[:, a] - logs[:, b]  # (WINDOW,)
            if apart.median() < 0.0:
                a, b, apart = b, a, -apart
            times, ratio = int((apart >= math.log10(FACTOR)).sum()), float(10.0 ** apart.median())
            found.append(Difference(self.names[a], self.names[b], times, ratio))
        return max(found, key=lambda difference: (difference.updates, difference.ratio))

    def state_dict(self) -> list[Tensor]:
        return list(self._norms)

    def load_state_dict(self, state: Sequence[Tensor]) -> None:
        self._norms = deque(state, maxlen=WINDOW)

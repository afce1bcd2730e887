"""Pink action noise: what is drawn for continuous actions keeps a memory (Eberhard et al., ICLR 2023).

White noise shakes an actuator; noise with power 1/f also leans to one side for a while, and so gets to
places that need a long push. It is made of five relaxing processes with time constants 1, 4, 16, 64 and 256
steps, whose spectra add up to 1/f in between (van der Ziel 1950). Each action by itself is distributed as
without it.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

KEEPS = torch.exp(-1.0 / 4.0 ** torch.arange(5.0))  # (K,), of a process's last value


class PinkNoise:
    """Pink noise for the continuous actions of N environments, normal or uniform.

    Args:
        columns: which of a row's numbers are continuous, C of them.
        white: draws white normal noise of a shape (N, C, K).
        levels: of the K processes, to go on from; None draws them as they are in the long run.
    """

    def __init__(
        self,
        columns: list[int],
        count: int,
        white: Callable[[tuple[int, int, int]], Tensor],
        levels: Tensor | None = None,
    ) -> None:
        self.columns, self._white = columns, white
        self._shape = count, len(columns), len(KEEPS)
        self.levels = (
            white(self._shape) if levels is None else levels
        )  # (N, C, K); replaced, never written to

    def normal(self, noise: Tensor) -> Tensor:
        """Return noise (N, ·) with pink normal numbers in its continuous columns."""
        coloured = noise.clone()
        coloured[:, self.columns] = self._next()
        return coloured

    def uniform(self, actions: Tensor) -> Tensor:
        """Return actions (N, ·) with pink numbers, uniform in [−1, 1], in their continuous columns."""
        coloured = actions.clone()
        coloured[:, self.columns] = torch.erf(self._next() / math.sqrt(2.0))  # 2Φ − 1
        return coloured

    def _next(self) -> Tensor:
        """Return the next values (N, C)."""
        keeps = KEEPS.to(self.levels)
        fresh = torch.sqrt(1.0 - keeps.square()) * self._white(self._shape).to(self.levels)
        self.levels = keeps * self.levels + fresh
        return self.levels.sum(-1) / math.sqrt(len(KEEPS))

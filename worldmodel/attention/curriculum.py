"""From exact to approximate attention while training: o = (1 − mix)·exact + mix·approximate.

A schedule that stops below 1 is mixed training. The mix is a number that the training loop sets.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from worldmodel.attention.kind import Kind

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


class Curriculum(Kind):
    """Two kinds on the same heads, mixed by output; `mix` = 0 is exact, 1 approximate.

    At the ends only one of them is computed. Raises ValueError when their heads differ.
    """

    def __init__(self, exact: Kind, approximate: Kind, mix: float = 0.0) -> None:
        if (exact.heads, exact.width) != (approximate.heads, approximate.width):
            raise ValueError("both kinds of a curriculum need the same heads and width")
        super().__init__(exact.heads, exact.width)
        self.exact, self.approximate, self.mix = exact, approximate, mix

    def weights(self, q: Tensor, k: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        return self._mixed("weights", q, k, mask, bias)

    def applied_weights(
        self,
        q: Tensor,
        k: Tensor,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        return self._mixed("applied_weights", q, k, mask, bias, dropout, generator)

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        return self._mixed("attend", q, k, v, mask, bias, dropout, generator)

    def attend_causal(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        segments: Tensor | None = None,
        valid: Tensor | None = None,
        log_decay: Tensor | None = None,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        return self._mixed("attend_causal", q, k, v, segments, valid, log_decay, dropout, generator)

    def attend_shared(
        self,
        q: Tensor,
        context_k: Tensor,
        context_v: Tensor,
        context_mask: Tensor | None,
        own_k: Tensor,
        own_v: Tensor,
        own_mask: Tensor | None = None,
    ) -> Tensor:
        """As every kind's; the cache holds keys as they are, because the two kinds encode differently."""

        def by(kind: Kind) -> Tensor:
            keys = kind.encode(context_k), kind.encode(own_k)
            return kind.attend_shared(q, keys[0], context_v, context_mask, keys[1], own_v, own_mask)

        return self._lerp(lambda: by(self.exact), lambda: by(self.approximate))

    def _mixed(self, method: str, *args: Any) -> Tensor:
        return self._lerp(
            lambda: getattr(self.exact, method)(*args), lambda: getattr(self.approximate, method)(*args)
        )

    def _lerp(self, exact: Callable[[], Tensor], approximate: Callable[[], Tensor]) -> Tensor:
        if self.mix == 0.0:
            return exact()
        if self.mix == 1.0:
            return approximate()
        return torch.lerp(exact(), approximate(), self.mix)

"""What multi-head attention keeps of the past between steps."""

from typing import NamedTuple

import torch
from torch import Tensor


class KeyValueCache(NamedTuple):
    """Room for L steps, filled from the left, in place."""

    keys: Tensor  # (B, h, L, d), encoded
    values: Tensor  # (B, h, L, dv)
    seen: Tensor  # (B, L) boolean: filled, and of the running episode
    since: Tensor  # (B, h, L): Σ log γ since each step
    length: int  # steps filled

    @classmethod
    def empty(cls, batch: int, heads: int, room: int, width: int, like: Tensor) -> "KeyValueCache":
        shape = batch, heads, room, width
        seen = torch.zeros(batch, room, dtype=torch.bool, device=like.device)
        return cls(like.new_zeros(shape), like.new_zeros(shape), seen, like.new_zeros(shape[:-1]), 0)

    def append(
        self, k: Tensor, v: Tensor, is_first: Tensor | None = None, log_decay: Tensor | None = None
    ) -> "KeyValueCache":
        """Add k (B, h, d), v (B, h, dv), and damp what is there by log γ (B, h).

        Rows that begin an episode forget what they hold.

        Raises ValueError when the cache is full.
        """
        if self.length == self.keys.shape[2]:
            raise ValueError(f"the cache is full after {self.length} steps: begin with a larger `room`")
        if is_first is not None:
            self.seen.logical_and_((is_first <= 0.5).unsqueeze(-1))
        if log_decay is not None:
            self.since[:, :, : self.length] += log_decay.unsqueeze(-1)
        self.keys[:, :, self.length] = k
        self.values[:, :, self.length] = v
        self.seen[:, self.length] = True
        return self._replace(length=self.length + 1)


class RecurrentCache(NamedTuple):
    """The state of a kind that is linear in time: constant size."""

    state: Tensor  # (B, h, φ, dv + 1)
    length: int


Cache = KeyValueCache | RecurrentCache

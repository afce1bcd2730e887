"""The weights of the block GRU's cell (native/c/gru.h), which the scan and rollouts share."""

from typing import NamedTuple

from torch import Tensor

from qdreamer.native.library import INT64, POINTER, Struct

PANEL = 32
"""Outputs of a packed weight are rounded up to so many at most, see native/c/products.h."""


class GRUWeights(NamedTuple):
    """The weights of `worldmodel.sequence_models.gru` with one layer: (out, in), blocks (g, in/g, out/g)."""

    w_h: Tensor  # f(h)
    b_h: Tensor
    s_h: Tensor
    w_z: Tensor  # f(z)
    b_z: Tensor
    s_z: Tensor
    w_recur: Tensor  # h → y, block by block
    w_mix: Tensor  # f(h), f(z) → y
    s_y: Tensor
    w_gates: Tensor  # y → gates, block by block
    b_gates: Tensor

    def place(self) -> Tensor:
        """Return memory for all weights in whole panels."""
        deter, hidden, width = self.w_h.shape[1], len(self.w_h), self.w_recur.shape[1]
        return self.w_h.new_empty(
            deter * (hidden + width + 3 * width + 3 * PANEL) + 2 * hidden * (deter + PANEL)
        )


class GRUStruct(Struct, name="gru"):
    """`GRUWeights`, contiguous, with w_z as C wants it, and a place for them in panels."""

    _fields_ = (
        *((name, INT64) for name in ("deter", "hidden", "blocks")),
        *((name, POINTER) for name in (*GRUWeights._fields, "packed")),
    )

    @classmethod
    def of(cls, weights: GRUWeights, packed: Tensor | None = None) -> "GRUStruct":
        """Return the struct; the caller holds the tensors while it is in use."""
        pointers = [weight.data_ptr() for weight in weights]
        hidden, deter = weights.w_h.shape
        return cls(
            deter, hidden, len(weights.w_recur), *pointers, None if packed is None else packed.data_ptr()
        )

"""What several kernels give to C: layers, the block GRU's cell, and their memory for one call."""

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from qdreamer.native.library import INT64, POINTER, Struct, members

PANEL = 32
"""Outputs of a packed weight are rounded up to a multiple of so many at most; see c/products.h."""


LEAST = 2**18
"""Multiplications for which waking a second thread pays."""


class Layer(NamedTuple):
    """The weights of SiLU(RMSNorm(weight·x + bias))."""

    weight: Tensor  # (out, in)
    bias: Tensor  # (out,)
    scale: Tensor  # (out,), of the norm


Activations = Sequence[Sequence[Tensor]]
"""x̂ (R, out), 1/rms (R, 1) and y (R, out) of every layer of a stack, as its gradients need them."""


class ActionWeights(NamedTuple):
    """How actions enter a sequence model: mix·SiLU(RMSNorm(weight·a + bias)) + bias."""

    hidden: Layer
    mix: Tensor  # (D, hidden)
    bias: Tensor  # (D,)


class CLayer(Struct, name="layer"):
    """See c/dense.h."""

    _fields_ = (*members(INT64, "in out"), *members(POINTER, "weight bias scale packed x_hat rstd y"))


class CallMemory:
    """One call's memory: contiguous tensors, and places for packed weights, held until it has returned."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._held: list[object] = []

    def address(self, struct: "ctypes.Structure | ctypes.Array[Any]") -> int:
        """Return where C finds a struct, or an array of them."""
        self._held.append(struct)
        return ctypes.addressof(struct)

    def pointer(self, tensor: Tensor) -> int:
        """Return the address of a tensor's numbers, without gaps."""
        self._held.append(tensor := tensor.contiguous())
        return tensor.data_ptr()

    def rows(self, weight: Tensor) -> Tensor:
        """Turn (out, in) to (in, out), readable for a panel behind the end."""
        out, width = weight.shape
        place = self._like.new_zeros(width * out + PANEL)[: width * out]
        return place.view(width, out).copy_(weight.t())

    def layers(
        self, layers: Sequence[Layer], activations: Sequence[Sequence[Tensor | None]] = ()
    ) -> "ctypes.Array[CLayer]":
        """Return C's layers, which keep their activations in the tensors given for them, if any are."""
        kept = activations or [()] * len(layers)
        return (CLayer * len(layers))(
            *(self._layer(*layer, *k) for layer, k in zip(layers, kept, strict=True))
        )

    def map(
        self, weight: Tensor, bias: Tensor | None = None, scale: Tensor | None = None
    ) -> "ctypes.Array[CLayer]":
        """Return a layer that C takes for a linear map; a scale is that of a norm before it."""
        return (CLayer * 1)(self._layer(weight, bias, scale))

    def _layer(
        self, weight: Tensor, bias: Tensor | None, scale: Tensor | None, *kept: Tensor | None
    ) -> CLayer:
        outputs, inputs = weight.shape
        packed = self._like.new_empty((inputs + PANEL) * (outputs + PANEL))  # one way round or the other
        tensors = weight, bias, scale, packed, *kept
        return CLayer(inputs, outputs, *(None if x is None else self.pointer(x) for x in tensors))


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


class GRUStruct(Struct, name="gru"):
    """`GRUWeights` with w_z as C wants it, and a place for them in panels."""

    _fields_ = (
        *members(INT64, "D hidden blocks"),
        *members(POINTER, " ".join((*GRUWeights._fields, "packed"))),
    )

    def __init__(self, memory: CallMemory, weights: GRUWeights) -> None:
        (hidden, deter), (blocks, width, _) = weights.w_h.shape, weights.w_recur.shape
        panels = deter * (hidden + 4 * width + 3 * PANEL) + 2 * hidden * (deter + PANEL)
        tensors = *weights, weights.w_h.new_empty(panels)
        super().__init__(deter, hidden, blocks, *map(memory.pointer, tensors))

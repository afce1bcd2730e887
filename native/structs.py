"""What several kernels give to C: layers, the block GRU's cell, and their memory for one call."""

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

from torch import Tensor

from qdreamer.native.dispatch import INT64, POINTER, Struct
from qdreamer.native.mlp import Activations, Layer

PANEL = 32
"""Outputs of a packed weight are rounded up to a multiple of so many at most; see c/products.h."""

T = TypeVar("T")


class ActionWeights(NamedTuple):
    """How actions enter a sequence model: mix·SiLU(RMSNorm(weight·a + bias)) + bias."""

    hidden: Layer
    mix: Tensor  # (D, hidden)
    bias: Tensor  # (D,)


def members(kind: Any, names: str) -> list[tuple[str, Any]]:
    """Return the members of a struct that have one type."""
    return [(name, kind) for name in names.split()]


class CLayer(Struct, name="layer"):
    """See c/rollout.h."""

    _fields_ = (*members(INT64, "in out"), *members(POINTER, "weight bias scale packed x_hat rstd y"))


class CallMemory:
    """One call's memory: contiguous tensors, and places for packed weights, held until it has returned."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._held: list[object] = []

    def hold(self, thing: T) -> T:
        self._held.append(thing)
        return thing

    def pointer(self, tensor: Tensor) -> int:
        """Return the address of a tensor without gaps."""
        self._held.append(tensor := tensor.contiguous())
        return tensor.data_ptr()

    def rows(self, weight: Tensor) -> Tensor:
        """Turn (out, in) to (in, out), readable for a panel behind the end."""
        out, width = weight.shape
        place = self._like.new_zeros(width * out + PANEL)[: width * out]
        return place.view(width, out).copy_(weight.t())

    def room(self, inputs: int, outputs: int) -> Tensor:
        """Return a place for a packed weight."""
        return self._like.new_empty(inputs * (outputs + PANEL))

    def layers(
        self, layers: Sequence[Layer], activations: Activations = (), inputs: int | None = None
    ) -> "ctypes.Array[CLayer]":
        """Return C's layers; of the first one only so many `inputs` are multiplied by packed weights."""
        structs = []
        for i, (weight, bias, scale) in enumerate(layers):
            n = inputs if inputs is not None and i == 0 else weight.shape[1]
            structs.append(self._layer(weight, bias, scale, n, *(activations[i] if activations else ())))
        return (CLayer * len(structs))(*structs)

    def map(
        self, weight: Tensor, bias: Tensor | None = None, scale: Tensor | None = None
    ) -> "ctypes.Array[CLayer]":
        """Return a layer that C takes for a linear map; a scale is that of a norm before it."""
        return (CLayer * 1)(self._layer(weight, bias, scale, weight.shape[1]))

    def _layer(
        self, weight: Tensor, bias: Tensor | None, scale: Tensor | None, n: int, *activations: Tensor
    ) -> CLayer:
        tensors = weight, bias, scale, self.room(n, len(weight))
        pointers = (None if tensor is None else self.pointer(tensor) for tensor in tensors)
        return CLayer(n, len(weight), *pointers, *(self.pointer(tensor) for tensor in activations))


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
        *members(INT64, "D hidden blocks"),
        *members(POINTER, " ".join((*GRUWeights._fields, "packed"))),
    )

    @classmethod
    def of(cls, weights: GRUWeights, packed: Tensor | None = None) -> "GRUStruct":
        """Return the struct; the caller holds the tensors while it is in use."""
        pointers = [weight.data_ptr() for weight in weights]
        hidden, deter = weights.w_h.shape
        return cls(
            deter, hidden, len(weights.w_recur), *pointers, None if packed is None else packed.data_ptr()
        )

"""What several kernels give to C: layers, the block GRU's cell, and their memory for one call."""

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from qdreamer.native.library import INT64, POINTER, Struct, members

PANEL = 32
"""Outputs or inputs of a packed weight are rounded up to a multiple of so many at most; see c/products.h."""

FLOAT_BYTES = 4

LEAST = 2**18
"""Multiplications for which waking a second thread pays."""

GROUP = 64
"""Rows that go together in c/mlp.c and c/two_hot.c (c/products.h); threads share the groups out."""


class Layer(NamedTuple):
    """The weights of SiLU(RMSNorm(weight·x + bias))."""

    weight: Tensor  # (out, in)
    bias: Tensor  # (out,)
    scale: Tensor  # (out,), of the norm


class Affine(NamedTuple):
    """The weights of weight·x + bias."""

    weight: Tensor  # (out, in)
    bias: Tensor  # (out,)
    scale: None = None


Stack = Sequence[Layer | Affine]
"""Layers one behind the other; only the last may be without a norm."""


class Activations(NamedTuple):
    """What a stack of layers made of R rows, as its gradients need it."""

    kept: Tensor  # (`kept_numbers`,): x̂ (R, out), 1/rms (R) and y (R, out) of one layer after the other
    y: Tensor  # (R, out) of the last layer, which is not in `kept`


def kept_numbers(layers: Stack, rows: int) -> int:
    """Return how many numbers `Activations.kept` has."""
    each = (len(layer.bias) + (0 if layer.scale is None else len(layer.bias) + 1) for layer in layers)
    return rows * (sum(each) - len(layers[-1].bias))


def threads_for(rows: int, weights: int) -> int:
    """Return how many of torch's threads have work in products of rows with so many weights."""
    return min(torch.get_num_threads(), -(-rows // GROUP)) if rows * weights >= LEAST else 1


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
        self, layers: Stack, kept: Tensor | None = None, y: Tensor | None = None
    ) -> "ctypes.Array[CLayer]":
        """Return C's layers, which keep their activations in `kept`, and what the last one makes in `y`."""
        shapes = [layer.weight.shape for layer in layers]
        packed = self.pointer(self._like.new_empty(sum(_packed_numbers(*shape) for shape in shapes)))
        made = (CLayer * len(layers))()
        for layer, (outputs, inputs), (weight, bias, scale) in zip(made, shapes, layers, strict=True):
            setattr(layer, "in", inputs)
            layer.out, layer.weight, layer.bias = outputs, self.pointer(weight), self.pointer(bias)
            layer.scale, layer.packed = None if scale is None else self.pointer(scale), packed
            packed += FLOAT_BYTES * _packed_numbers(outputs, inputs)
        if kept is not None:
            place, rows = self.pointer(kept), kept.numel() // max(1, kept_numbers(layers, 1))
            for layer in made:
                if layer.scale:
                    layer.x_hat, layer.rstd = place, place + FLOAT_BYTES * rows * layer.out
                    place += FLOAT_BYTES * rows * (layer.out + 1)
                layer.y = place  # the last one's is set below
                place += FLOAT_BYTES * rows * layer.out
        if y is not None:
            made[-1].y = self.pointer(y)
        return made

    def map(
        self, weight: Tensor, bias: Tensor | None = None, scale: Tensor | None = None
    ) -> "ctypes.Array[CLayer]":
        """Return a layer that C takes for a linear map; a scale is that of a norm before it."""
        outputs, inputs = weight.shape
        tensors = weight, bias, scale, self._like.new_empty(_packed_numbers(outputs, inputs))
        addresses = (None if x is None else self.pointer(x) for x in tensors)
        return (CLayer * 1)(CLayer(inputs, outputs, *addresses))


def _packed_numbers(outputs: int, inputs: int) -> int:
    """Return the room that a weight takes in panels, one way round or the other."""
    return (inputs + PANEL) * (outputs + PANEL)


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

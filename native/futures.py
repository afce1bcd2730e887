"""Imagined futures of blocks of attention for c/futures.c: what they see of the past, and its weights.

Futures that begin after steps of one row share its keys and values; each sees those columns that lie in
its episode and its window. Kinds that are linear in time (`born`) are pairs of steps here as well, and what
is left of a column when a future begins, by the gates in between, is a number of each pair.
"""

import ctypes
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from qdreamer.native.library import FLOAT, INT64, POINTER, Struct, members
from qdreamer.native.structs import ActionWeights, CallMemory, CLayer
from qdreamer.native.transformer_block import AttentionForm, BlockWeights

FUTURES = 32
"""So many go together through all of time: their memories lie in the second-level cache."""

COLUMNS = 32
"""Steps of the past are filled up to a multiple of so many, which C looks at together."""

LANES = 16
"""Values and imagined steps are filled up to a multiple of so many, a vector's numbers at most."""

LONGEST = 1024
"""Steps of the past up to which pairs are quick where all of them are looked at."""


class Past(NamedTuple):
    """What one layer has kept of C steps of B rows."""

    form: AttentionForm
    keys: Tensor  # (B, h, C, d)
    values: Tensor  # (B, h, C, d)
    decay: Tensor | None  # (B, h, C) float64: Σ log γ since the episode began; None: nothing fades


class FutureLayer(NamedTuple):
    """One block, and its past."""

    weights: BlockWeights
    past: Past
    gate: tuple[Tensor, Tensor] | None  # weight and bias of the gates γ = σ(W x + b)


class FutureBlocks(NamedTuple):
    """Blocks on tokens of E, and where N = R·G futures begin.

    After steps t of rows b; steps are counted among the latest T of C columns.
    """

    stoch: Tensor  # (E, S·K), what a latent gives to a token
    stoch_bias: Tensor
    norm: Tensor  # (E,), of the norm behind the blocks
    layers: list[FutureLayer]
    b: Tensor  # (R,)
    t: Tensor  # (R, G), G ≤ 8
    segments: Tensor  # (B, C), episode numbers, ascending
    steps: int  # T
    window: int  # steps that a step sees, itself included; of overlaps: all
    phases: tuple[Tensor, Tensor]  # cosines and sines (T + H, d) of the positions after the first of T steps

    def known(self) -> bool:
        """Return whether C knows the attention of all layers together, and overlaps are not too many."""
        forms = {(layer.past.form.normalized, layer.past.form.floor) for layer in self.layers}
        overlaps = self.layers[0].past.form.floor is not None  # which have no window
        return len(forms) == 1 and (not overlaps or self.segments.shape[1] <= LONGEST)


class TransformerRollout(NamedTuple):
    """A transformer, whose tokens are D wide."""

    action: ActionWeights
    futures: FutureBlocks


class MemoryRollout(NamedTuple):
    """An episodic memory beside a recurrent state, see `worldmodel.sequence_models.episodic_memory`."""

    futures: FutureBlocks
    stays: Tensor  # W′ (E, D)
    asks: Tensor  # W″ (E, D)
    action: Tensor  # V (E, A)


class _Layer(Struct, name="future_layer"):
    _fields_ = (
        *members(ctypes.POINTER(CLayer), "qkv out mlp mlp_out gate"),
        *members(POINTER, "sharpness keys values remaining"),
    )


class Futures(Struct, name="futures"):
    _fields_ = (
        *members(INT64, "E G h d c p layers window slots normalized overlaps"),
        ("floor", FLOAT),
        *members(POINTER, "row begin at position cosine sine w_z b_z norm layer"),
    )


def fill_futures(memory: CallMemory, w: FutureBlocks, horizon: int) -> Futures:
    """Return C's struct for `horizon` steps of futures that have not begun yet."""
    form, keys = w.layers[0].past[:2]
    heads, columns, width = keys.shape[1:]
    segments = w.segments[w.b].contiguous()  # (R, C)
    at = w.t + (columns - w.steps)  # (R, G)
    begin = torch.searchsorted(segments, segments.gather(1, at))
    window = w.window if form.floor is None else columns + horizon
    begin = begin.maximum(at + (2 - window))
    tensors = {
        "row": w.b, "begin": begin, "at": at, "position": w.t, "cosine": w.phases[0], "sine": w.phases[1],
        "w_z": memory.rows(w.stoch), "b_z": w.stoch_bias, "norm": w.norm,
    }  # fmt: skip
    layers = (_Layer * len(w.layers))(*(_fill_layer(memory, layer, w.b, begin, at) for layer in w.layers))
    return Futures(
        E=len(w.norm), G=w.t.shape[1], h=heads, d=width, c=rounded(columns, COLUMNS), p=rounded(width, LANES),
        layers=len(layers), window=window, slots=rounded(horizon, LANES), normalized=form.normalized,
        overlaps=form.floor is not None, floor=form.floor or 0.0,
        layer=memory.address(layers),
        **{name: memory.pointer(tensor) for name, tensor in tensors.items()},
    )  # fmt: skip


class Recall(Struct, name="recall"):
    _fields_ = (
        *members(ctypes.POINTER(CLayer), "stays asks action"),
        *members(POINTER, "futures"),
    )


def fill_recall(memory: CallMemory, w: MemoryRollout, horizon: int) -> Recall:
    """Return C's struct for `horizon` steps of futures that have not begun yet."""
    return Recall(
        stays=memory.map(w.stays), asks=memory.map(w.asks), action=memory.map(w.action),
        futures=memory.address(fill_futures(memory, w.futures, horizon)),
    )  # fmt: skip


def _fill_layer(memory: CallMemory, layer: FutureLayer, b: Tensor, begin: Tensor, at: Tensor) -> _Layer:
    (_, _, norm, qkv, qkv_bias, out, mlp, mlp_out), (form, keys, values, decay), gate = layer
    if form.normalized:
        keys = keys * (keys.square().sum(-1, keepdim=True) + SMALLEST).rsqrt()
    more = -keys.shape[2] % COLUMNS
    tensors = {
        "sharpness": form.sharpness,
        "keys": F.pad(keys.mT, (0, more)),  # (B, h, d, c)
        "values": F.pad(values, (0, -values.shape[-1] % LANES, 0, more)),  # (B, h, c, p)
    }
    if form.floor is not None:
        column = torch.arange(keys.shape[2])
        seen = (column >= begin.unsqueeze(-1)) & (column <= at.unsqueeze(-1))  # (R, G, C)
        remaining = seen.unsqueeze(1).to(keys.dtype).expand(-1, keys.shape[1], -1, -1)  # (R, h, G, C)
        if decay is not None:
            total = decay[b]  # (R, h, C)
            now = total.gather(-1, at.unsqueeze(1).expand(-1, keys.shape[1], -1))  # (R, h, G)
            lost = (now.unsqueeze(-1) - total.unsqueeze(2)).clamp(max=0.0)
            remaining = remaining * lost.exp().to(keys.dtype)
        tensors["remaining"] = F.pad(remaining.transpose(1, 2), (0, more))  # (R, G, h, c)
    return _Layer(
        qkv=memory.map(qkv, qkv_bias, norm), out=memory.map(out), mlp=memory.layers([mlp]),
        mlp_out=memory.map(mlp_out), gate=None if gate is None else memory.map(*gate),
        **{name: memory.pointer(tensor) for name, tensor in tensors.items()},
    )  # fmt: skip


SMALLEST = 1e-12
"""Added to squared lengths, as by `worldmodel.attention.kernel.unit`."""


def rounded(size: int, multiple: int) -> int:
    """Return the next multiple that is not smaller than `size`."""
    return -(-size // multiple) * multiple

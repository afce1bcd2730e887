"""What imagined futures share of their rows' pasts, for native/c/imagine.c: G neighbours ask together.

Softmax-like kinds share the row's keys and values; each future sees those columns that lie in its episode
and its window. `born` shares the recurrent state after the oldest of the G starts (`born_forms.py`); the
few steps between that and the other starts are pairs, of which each has kept what its gates left.
"""

import ctypes
from typing import NamedTuple

import torch
from torch import Tensor

from qdreamer.native import kernels
from qdreamer.worldmodel.attention.born import Born
from qdreamer.worldmodel.attention.encodings import ComplexAmplitudes
from qdreamer.worldmodel.attention.kernel import AttentionKernel
from qdreamer.worldmodel.sequence_models.context import KeyValues, RecurrentTrail

PANEL = 32
"""Columns are rounded up to so many, two vectors of any processor; values to half of it."""

SIZES = "threads B h d T R G low high c p phi W unit born complex k_b k_h k_t v_b v_h v_t g_b g_h g_t"
TENSORS = "k v log_decay before f segments row t order oldest keys values floor state weight left"
"""The struct's members in their order; see native/c/imagine.c."""


class _Past(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in SIZES.split()),
        *((name, ctypes.c_void_p) for name in TENSORS.split()),
    ]


class Starts(NamedTuple):
    """Where N = R·G futures begin: after steps t of rows b, the latest T of the columns of `segments`."""

    b: Tensor  # (R,)
    t: Tensor  # (R, G)
    segments: Tensor  # (B, c + T), episode numbers, ascending
    steps: int  # T


class Columns(NamedTuple):
    """Which columns futures look at; all layers share it."""

    first: Tensor  # (R,), of each group; born
    begin: Tensor  # (N,), the first and
    at: Tensor  # (N,), the last that each future sees; softmax-like kinds
    width: int  # W


SharedCache = dict[str, Tensor]
"""One layer's, on C columns; φ features, p numbers for d values.

keys (B, h, d, C), encoded; values (B, h, C, p). For `born`, whose values have a one at place d, also floor
(B, h, C), added to each overlap; state (R, h, φ, p) of each group; weight (N, h, W), what a future has left
of its group's W columns, 0 if unseen; left (N, h, 2), what it has left of the state, and of the columns
since the start.
"""


def share_keys(
    kinds: list[AttentionKernel], trails: list[KeyValues], starts: Starts, window: int, unit: bool
) -> tuple[list[SharedCache], Columns]:
    """For kinds that keep keys and values; `unit` if they encode by `unit`."""
    b, t, segments, steps = starts
    of = segments[b]  # (R, c + T)
    at = t + (segments.shape[1] - steps)  # (R, G)
    begin = torch.searchsorted(of, of.gather(1, at)).maximum(at + (2 - window))
    high = int(at.max()) + 1
    low = min(int(begin.min()), high - 1)
    pasts = []
    for kind, trail in zip(kinds, trails, strict=True):
        made = _room(kind, trail.v, len(segments), rounded(high - low, PANEL), kind.width)
        sizes = {"low": low, "high": high, "unit": unit, "born": False, "complex": False}
        _share(sizes, {"k": trail.k, "v": trail.v}, made)
        pasts.append(made)
    return pasts, Columns(b, (begin - low).flatten(), (at - low).flatten(), 0)


def share_states(
    kinds: list[Born], trails: list[RecurrentTrail], starts: Starts
) -> tuple[list[SharedCache], Columns]:
    """For kinds with a recurrent state."""
    b, t, segments, steps = starts
    oldest = t.amin(1)  # (R,)
    width = rounded(int((t - oldest.unsqueeze(1)).max()), PANEL // 2)  # W
    low, high = int(oldest.min()) + 1, int(t.max()) + 1
    room = rounded(high - low + width, PANEL)  # a group's columns may end after the last
    groups = {"segments": segments[:, -steps:], "row": b, "t": t, "oldest": oldest}
    groups["order"] = (b * steps + oldest).argsort()
    sizes = {
        "T": steps, "R": t.shape[0], "G": t.shape[1], "low": low, "high": high, "W": width, "unit": True,
        "born": True,
    }  # fmt: skip
    pasts = []
    for kind, trail in zip(kinds, trails, strict=True):
        (_, v, log_decay), before = trail
        phi, heads = kind.encoding.size, kind.heads
        made = _room(kind, v, len(segments), room, kind.width + 1)
        made["floor"] = v.new_empty(len(segments), heads, room)
        made["state"] = v.new_empty(len(b), heads, phi, made["values"].shape[-1])
        made["weight"] = v.new_empty(t.numel(), heads, width)
        made["left"] = v.new_empty(t.numel(), heads, 2)
        inputs = groups | {"k": trail.heads.k, "v": v, "f": v.new_tensor(kind.floor)}
        if log_decay is not None:
            inputs["log_decay"] = log_decay
        if before.numel():
            inputs["before"] = before
        _share(sizes | {"phi": phi, "complex": isinstance(kind.encoding, ComplexAmplitudes)}, inputs, made)
        pasts.append(made)
    nothing = torch.zeros_like(t.flatten())
    return pasts, Columns(oldest + (1 - low), nothing, nothing, width)


def _room(kind: AttentionKernel, like: Tensor, rows: int, columns: int, values: int) -> SharedCache:
    return {
        "keys": like.new_empty(rows, kind.heads, kind.width, columns),
        "values": like.new_empty(rows, kind.heads, columns, rounded(values, PANEL // 2)),
    }


def _share(sizes: dict[str, int], inputs: dict[str, Tensor], made: SharedCache) -> None:
    """Fill `made`."""
    rows, heads, width, columns = made["keys"].shape
    strided = {
        name: x if name == "log_decay" or x.stride(-1) == 1 else x.contiguous()
        for name, x in inputs.items()
        if name in ("k", "v", "log_decay")
    }
    inputs = {name: x.contiguous() for name, x in inputs.items()} | strided
    names = {"k": "k", "v": "v", "log_decay": "g"}
    strides = {
        f"{names[name]}_{axis}": x.stride(i) for name, x in strided.items() for i, axis in enumerate("bht")
    }
    past = _Past(
        threads=torch.get_num_threads(), B=rows, h=heads, d=width, c=columns, p=made["values"].shape[-1],
        **sizes, **strides, **{name: x.data_ptr() for name, x in (inputs | made).items()},
    )  # fmt: skip
    kernels.functions().share_past(ctypes.byref(past))


def rounded(size: int, multiple: int) -> int:
    """Up."""
    return -(-size // multiple) * multiple

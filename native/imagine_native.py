"""RolloutState futures of the transformer in C (native/c/imagine.c): a call for each step, or for a rollout.

Nothing of the past is copied for a future (`shared_past.py`), and imagined steps are pairs in every kind,
so that no recurrent state is ever written: the steps are few, and a state has hundreds of numbers.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from qdreamer.native import kernels
from qdreamer.native.shared_past import PANEL, SharedCache, Starts, rounded, share_keys, share_states
from qdreamer.worldmodel.attention.born import Born
from qdreamer.worldmodel.attention.coherent import Coherent
from qdreamer.worldmodel.attention.encodings import ComplexAmplitudes
from qdreamer.worldmodel.attention.kernel import AttentionKernel
from qdreamer.worldmodel.attention.sampled import Sampled
from qdreamer.worldmodel.attention.softmax import Softmax
from qdreamer.worldmodel.sequence_models.context import KeyValues, RecurrentTrail

LAYER = """
    norm qkv qkv_bias out mlp mlp_bias mlp_norm mlp_out sharpness keys values own_keys own_values
    decay decay_bias floor state weight left own_weight own_floor
"""
SIZES = """
    threads N G D h d H Z layers c p phi W slots step window unit born complex
    scratch_size
"""
TENSORS = "row first begin at position cos sin w_z b_z norm floor layer scratch"
"""The structs' members in their order; see native/c/imagine.c."""

MOST_STATE = 2**18
"""Numbers of a head's state: sums over it lie on the stack."""

SLOTS = 16
"""RolloutState steps for which there is room at first; when it is full it doubles."""


class LayerWeights(NamedTuple):
    """Of one block, as torch has them: (out, in)."""

    norm: Tensor
    qkv: Tensor
    qkv_bias: Tensor
    out: Tensor
    mlp: Tensor
    mlp_bias: Tensor
    mlp_norm: Tensor
    mlp_out: Tensor
    decay: Tensor | None
    decay_bias: Tensor | None


class Weights(NamedTuple):
    """Of the model."""

    stoch: Tensor  # (D, Z)
    stoch_bias: Tensor
    norm: Tensor
    layers: list[LayerWeights]


class _Layer(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in LAYER.split()]


class _Futures(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in SIZES.split()),
        *((name, ctypes.c_void_p) for name in TENSORS.split()),
    ]


def supports(kinds: list[AttentionKernel], like: Tensor) -> bool:
    """Whether the kernel knows these layers' attentions and such tensors, and nobody wants gradients."""
    known = all(isinstance(kind, Softmax | Coherent | Sampled) or _computed(kind) for kind in kinds)
    return known and kernels.fit(like) and not torch.is_grad_enabled()


def _computed(kind: AttentionKernel) -> bool:
    """Whether it is `born` with overlaps that nobody measures, and a state that fits the stack."""
    if type(kind) is not Born or kind.measured:  # subclasses have other features
        return False
    return kind.encoding.size * (kind.width + 16) <= MOST_STATE


class NativeRolloutState:
    """The state of N = R·G imagined futures; stepping from it uses it up.

    Args:
        kinds, trails: of each layer; all of the same class. starts: where the futures begin.
        window: steps that a step sees, itself included; softmax-like kinds only.
        position: of the first of the T steps.
    """

    def __init__(
        self,
        weights: Weights,
        kinds: list[AttentionKernel],
        trails: list[KeyValues] | list[RecurrentTrail],
        starts: Starts,
        window: int,
        position: int,
    ) -> None:
        born = [kind for kind in kinds if isinstance(kind, Born)]
        unit = not isinstance(kinds[0], Softmax | Sampled)
        if born:
            recurrent = [trail for trail in trails if isinstance(trail, RecurrentTrail)]
            pasts, columns = share_states(born, recurrent, starts)
        else:
            kept = [trail for trail in trails if isinstance(trail, KeyValues)]
            pasts, columns = share_keys(kinds, kept, starts, window, unit)
        rows, group = starts.t.shape
        kind, first = kinds[0], int(starts.t.min())
        self._first_position = position + first + 1
        self._born, self._slots, self._width = bool(born), SLOTS, kind.width
        self._room = rows * group, kind.heads
        self._like = weights.norm
        self._tensors = {
            "row": starts.b, "first": columns.first, "begin": columns.begin, "at": columns.at,
            "position": (starts.t - first).flatten(), "w_z": weights.stoch.t(), "b_z": weights.stoch_bias,
            "norm": weights.norm, "floor": weights.norm.new_tensor(born[0].floor if born else 0.0),
        }  # fmt: skip
        self._last = int(self._tensors["position"].max())
        self._layers = [
            _prepared(layer, kind, past)
            for layer, kind, past in zip(weights.layers, kinds, pasts, strict=True)
        ]
        state = pasts[0].get("state")
        self._sizes = {
            "threads": torch.get_num_threads(), "N": rows * group, "G": group, "D": len(weights.norm),
            "h": kind.heads, "d": kind.width, "H": len(weights.layers[0].mlp), "Z": weights.stoch.shape[1],
            "layers": len(kinds), "c": pasts[0]["keys"].shape[-1], "p": pasts[0]["values"].shape[-1],
            "phi": 0 if state is None else state.shape[2], "W": columns.width, "window": window,
            "unit": unit, "born": bool(born),
            "complex": bool(born) and isinstance(born[0].encoding, ComplexAmplitudes),
        }  # fmt: skip
        self._make_room(0)

    def step(self, stoch: Tensor, drive: Tensor, out: Tensor | None = None) -> Tensor:
        """stoch (N, S·K), drive (N, D) → h (N, D)."""
        if torch.is_grad_enabled():
            raise ValueError("these futures record no gradients: step them, too, under torch.no_grad()")
        self._reserve(1)
        stoch = stoch.contiguous()
        drive = drive if drive.stride(-1) == 1 else drive.contiguous()
        h = drive.new_empty(drive.shape) if out is None else out
        kernels.functions().imagine(
            ctypes.byref(self._futures), stoch.data_ptr(), drive.data_ptr(), drive.stride(0), h.data_ptr(),
            h.stride(0),
        )  # fmt: skip
        self._futures.step += 1
        return h

    @contextmanager
    def steps(self, count: int) -> Iterator[int]:
        """The address of the C struct, while a rollout takes the next `count` steps (`imagine_rows`)."""
        self._reserve(count)
        yield ctypes.addressof(self._futures)
        self._futures.step += count

    def _reserve(self, steps: int) -> None:
        """Room for so many more."""
        taken = self._futures.step
        if taken + steps > self._slots:
            while taken + steps > self._slots:
                self._slots *= 2
            self._make_room(taken)

    def _make_room(self, taken: int) -> None:
        """Room for imagined steps, with those `taken` in it."""
        futures, heads = self._room
        # Zeros: what stands behind the present step is computed with, too, and denormal numbers are slow.
        by_step = {"own_keys": heads * self._width}
        if self._born:
            by_step |= {"own_weight": heads, "own_floor": heads}
        for layer in self._layers:
            for name, width in by_step.items():
                room = self._like.new_zeros(futures, width, self._slots)
                if taken:
                    room[..., :taken] = layer[name][..., :taken]
                layer[name] = room
            values = self._like.new_empty(self._slots, futures, heads * self._width)
            if taken:
                values[:taken] = layer["own_values"][:taken]
            layer["own_values"] = values
        cos, sin = self._like.new_empty(2, self._last + self._slots, self._width)
        kernels.functions().phase_table(
            self._first_position, len(cos), self._width, cos.data_ptr(), sin.data_ptr()
        )
        self._tensors |= {"cos": cos, "sin": sin}
        self._tensors = {name: tensor.contiguous() for name, tensor in self._tensors.items()}
        layers = (_Layer * len(self._layers))(
            *(_Layer(**{name: tensor.data_ptr() for name, tensor in layer.items()}) for layer in self._layers)
        )
        pointers = {name: tensor.data_ptr() for name, tensor in self._tensors.items()}
        pointers["layer"] = ctypes.addressof(layers)
        self._futures = _Futures(**self._sizes, slots=self._slots, step=taken, **pointers)
        size = kernels.functions().imagine_scratch(ctypes.byref(self._futures))
        scratch = self._like.new_empty(self._sizes["threads"], size)
        self._futures.scratch_size, self._futures.scratch = size, scratch.data_ptr()
        self._alive = layers, scratch


def _prepared(weights: LayerWeights, kind: AttentionKernel, past: SharedCache) -> dict[str, Tensor]:
    """What the struct `layer` points to, but for the own steps."""
    tensors = weights._asdict() | past
    tensors["sharpness"] = _sharpness(kind, weights.norm)
    for name in ("qkv", "out", "mlp", "mlp_out", "decay"):
        if tensors[name] is not None:
            tensors[name] = _packed(tensors[name])
    return {name: tensor.contiguous() for name, tensor in tensors.items() if tensor is not None}


def _sharpness(kind: AttentionKernel, like: Tensor) -> Tensor:
    """What log κ is, times the product of encoded query and key; (h)."""
    if isinstance(kind, Coherent):
        return 2.0 * kind.photons()
    if isinstance(kind, Softmax):
        return like.new_full((kind.heads,), kind.scale)
    return like.new_full((kind.heads,), 1.0 if isinstance(kind, Born) else kind.width**-0.5)


def _packed(weight: Tensor) -> Tensor:
    """A weight (out, in) as the products of native/c/imagine.c read it."""
    m, n = weight.shape
    weight = weight.contiguous()
    to = weight.new_empty(rounded(m, PANEL), n)
    kernels.functions().pack(n, m, weight.data_ptr(), to.data_ptr())
    return to

"""One step of filtering, as acting takes it (c/filter.c): recurrence, posterior, draw, and the read after it.

The reference is `observe` of a single step. On one row that is a hundred calls of torch, each of which takes
longer than its arithmetic.
"""

import ctypes
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from qdreamer.native.dispatch import Function, Kernel, fits
from qdreamer.native.library import FLOAT, INT64, POINTER, Struct, members
from qdreamer.native.rollout import MOST_WEIGHTS
from qdreamer.native.scan import PosteriorWeights
from qdreamer.native.structs import ActionWeights, CallMemory, GRUStruct, GRUWeights
from qdreamer.native.transformer_block import BlockWeights

MOST_ROWS = 64
"""So many rows take C three quarters of torch's time (one thread each); at 256 it is no longer ahead."""


class Reading(NamedTuple):
    """A memory (`worldmodel.sequence_models.episodic_memory`), and what it has kept of c steps."""

    stays: Tensor  # W′ (E, D)
    stoch: Tensor  # (E, S·K)
    stoch_bias: Tensor
    action: Tensor  # V (E, A)
    block: BlockWeights
    norm: Tensor  # (E,), behind the block
    keys: Tensor  # (N, h, c, d)
    values: Tensor  # (N, h, c, d)
    segments: Tensor  # (N, c), 0 for steps of the episode that goes on, −1 for others
    position: Tensor  # (), of the next step


class Recurrence(NamedTuple):
    """The block GRU, and its memory if it has one."""

    action: ActionWeights
    cell: GRUWeights
    reading: Reading | None = None


class FilterWeights(NamedTuple):
    """What a step of filtering is made with."""

    recurrence: Recurrence
    embed: tuple[Tensor, Tensor]  # weight (U, E) and bias of the embedding's half of the posterior
    posterior: PosteriorWeights
    unimix: float


class FilterInputs(NamedTuple):
    embed: Tensor  # (N, E)
    action: Tensor  # (N, A), what led here
    is_first: Tensor  # (N,)
    noise: Tensor  # (N, S), U[0, 1)
    state: Tensor  # (N, D), the GRU's
    stoch: Tensor  # (N, S·K)


class Filtered(NamedTuple):
    """What C leaves of a step. Keys, values and segments have one column more than before."""

    state: Tensor  # (N, D)
    stoch: Tensor  # (N, S·K)
    kept: tuple[Tensor, Tensor, Tensor] | None  # keys and values (N, h, c + 1, d), segments (N, c + 1)


Modules = Callable[[], tuple[Tensor, Any]]
"""The step made of its modules: features (N, F), and what goes on to the next one."""


def reference(
    modules: Modules, keep: Callable[[Filtered], Any], weights: FilterWeights | None, inputs: FilterInputs
) -> tuple[Tensor, Any]:
    """Return features (N, F), and what `keep` makes of the rest."""
    return modules()


def supports(
    modules: Modules, keep: Callable[[Filtered], Any], weights: FilterWeights | None, inputs: FilterInputs
) -> bool:
    """Return whether C knows these networks, and neither they nor the rows are too many for one thread."""
    if weights is None or inputs.noise.dim() > 2 or not fits(*inputs):
        return False
    cell, reading = weights.recurrence.cell, weights.recurrence.reading
    if len(inputs.embed) > MOST_ROWS:
        return False
    known = reading is None or (reading.block.form is not None and reading.block.form.floor is None)
    return known and sum(w.numel() for w in (cell.w_recur, cell.w_mix, cell.w_gates)) <= MOST_WEIGHTS


def call(
    modules: Modules, keep: Callable[[Filtered], Any], weights: FilterWeights | None, inputs: FilterInputs
) -> tuple[Tensor, Any]:
    assert weights is not None
    (action, cell, reading), (w_embed, b_embed), posterior, unimix = weights
    rows, latents = inputs.noise.shape
    memory, new = CallMemory(inputs.embed), inputs.embed.new_empty
    deter, width = inputs.state.shape[1], inputs.stoch.shape[1]
    reads = deter if reading is None else deter + len(reading.norm)  # W
    features, state, stoch = new(rows, reads + width), new(rows, deter), new(rows, width)
    kept = None
    if reading is not None:
        heads, columns, size = reading.keys.shape[1:]
        keys, values = (new(rows, heads, columns + 1, size) for _ in range(2))
        kept = keys, values, reading.segments.new_empty(rows, columns + 1)
    tensors = {
        "w_action": action.hidden.weight, "b_action": action.hidden.bias, "s_action": action.hidden.scale,
        "mix": action.mix, "mix_bias": action.bias, "w_embed": w_embed, "b_embed": b_embed,
        "w_q": posterior.w_q, "s_q": posterior.s_q, "w_out": posterior.w_out, "b_out": posterior.b_out,
        **inputs._asdict(), "h": state, "z": stoch, "features": features,
    }  # fmt: skip
    struct = _Filter(
        N=rows, E=w_embed.shape[1], U=len(w_embed), S=latents, K=width // latents, A=inputs.action.shape[1],
        W=reads, gru=memory.address(GRUStruct(memory, cell)), unimix=unimix,
        reading=None if kept is None or reading is None else memory.address(_fill(memory, reading, kept)),
        **{name: memory.pointer(tensor) for name, tensor in tensors.items()},
    )  # fmt: skip
    _filter_step(struct)
    return features, keep(Filtered(state, stoch, kept))


class _Reading(Struct, name="reading"):
    _fields_ = (
        *members(INT64, "E h d H c normalized"),
        *members(POINTER, "stays stoch stoch_bias action block_norm qkv qkv_bias out mlp mlp_bias mlp_norm"),
        *members(POINTER, "mlp_out norm sharpness keys values segments position"),
        *members(POINTER, "new_keys new_values new_segments"),
    )


class _Filter(Struct, name="filter"):
    _fields_ = (
        *members(INT64, "N E U S K A W"),
        *members(
            POINTER, "gru reading w_action b_action s_action mix mix_bias w_embed b_embed w_q s_q w_out"
        ),
        *members(POINTER, "b_out embed action is_first noise state stoch h z features"),
        ("unimix", FLOAT),
    )


_filter_step = Function("filter_step", ctypes.POINTER(_Filter))


def _fill(memory: CallMemory, r: Reading, kept: tuple[Tensor, Tensor, Tensor]) -> _Reading:
    heads, form, norm, qkv, qkv_bias, out, mlp, mlp_out = r.block
    assert form is not None
    tensors = {
        "stays": r.stays, "stoch": r.stoch, "stoch_bias": r.stoch_bias, "action": r.action,
        "block_norm": norm, "qkv": qkv, "qkv_bias": qkv_bias, "out": out, "mlp": mlp.weight,
        "mlp_bias": mlp.bias, "mlp_norm": mlp.scale, "mlp_out": mlp_out, "norm": r.norm,
        "sharpness": form.sharpness, "keys": r.keys, "values": r.values, "segments": r.segments,
        "position": r.position, **dict(zip(("new_keys", "new_values", "new_segments"), kept, strict=True)),
    }  # fmt: skip
    return _Reading(
        E=len(r.norm), h=heads, d=r.keys.shape[3], H=len(mlp.bias), c=r.keys.shape[2],
        normalized=form.normalized, **{name: memory.pointer(tensor) for name, tensor in tensors.items()},
    )  # fmt: skip


filter_step = Kernel("filter", reference, call, supports)

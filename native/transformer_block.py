"""A block of the transformer over whole sequences (c/transformer_block.c), with hand-written gradients.

    q, k, v = W norm(x) + b;   x' = x + W_o·attention(q, k, v);   tokens = x' + W_2·SiLU(norm(W_1 x'))

One call goes through a whole block, sequence after sequence, so that what lies between the products stays
in the cache; weight gradients are added up on the way. Attention looks at pairs of a query and the keys that
it sees, without a mask in memory. The first steps may be seen only, and steps may ask once more at the end
(`Sight`). C knows weights that are exponentials of products, exact, over steps that are all in the call; all
else (noise, mixtures, draws, keys and values of earlier calls) takes the modules.
"""

import ctypes
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from qdreamer.native.dispatch import Function, Kernel, fits
from qdreamer.native.library import INT64, POINTER, Struct, members
from qdreamer.native.structs import PANEL, Layer


class AttentionForm(NamedTuple):
    """How C makes weights of queries and keys: of exp(sharpness·q·k), or of overlaps (q·k)² + floor."""

    sharpness: Tensor  # (h,)
    normalized: bool  # queries and keys are made unit vectors first
    floor: float | None = None  # of overlaps


class BlockWeights(NamedTuple):
    """The weights of one block for h heads of d features; maps are (out, in)."""

    heads: int  # h
    form: AttentionForm | None  # None where C does not know it
    norm: Tensor  # (E,)
    qkv: Tensor  # (3·h·d, E)
    qkv_bias: Tensor
    out: Tensor  # (E, h·d)
    mlp: Layer
    mlp_out: Tensor  # (E, H)


class Sight(NamedTuple):
    """Who sees whom among n steps, some of which may ask once more, for the steps before theirs only."""

    segments: Tensor  # (B, c + n), episode numbers of the steps and of c before them, ascending
    window: int  # steps that a step sees, itself included
    skip: int = 0  # the first so many steps are seen, no more
    asks: bool = False  # behind the n steps come those that ask, n − skip

    def covers(self, tokens: int) -> bool:
        """Return whether so many tokens are all that is seen: c = 0."""
        n = self.segments.shape[1]
        return tokens == n + (n - self.skip) * self.asks

    def ends(self) -> tuple[Tensor, Tensor]:
        """Return the first and the last step that each row of tokens sees."""
        n = torch.arange(self.segments.shape[1])
        first = torch.searchsorted(self.segments, self.segments).maximum(n - (self.window - 1))
        last = n.expand_as(first)
        if self.asks:
            first = torch.cat([first, first[:, self.skip :]], 1)
            last = torch.cat([last, last[:, self.skip :] - 1], 1)
        return first, last


class _Block(Struct, name="block"):
    _fields_ = (
        *members(INT64, "threads B T E heads d H normalized skip room"),
        *members(
            POINTER, "first last x cosine sine scale norm qkv qkv_bias out mlp mlp_bias mlp_norm mlp_out"
        ),
        *members(POINTER, "rstd asked rstds attended marks middle x_hat mlp_rstd y tokens"),
        *members(POINTER, "grad g_x g_scale g_norm g_qkv g_qkv_bias g_out g_mlp g_mlp_bias g_mlp_norm"),
        *members(POINTER, "g_mlp_out panels work"),
    )


Modules = Callable[[], tuple[Tensor, Any]]
"""The block made of its modules, whatever they are: the definition."""
Keep = Callable[[Tensor, Tensor], Any]
"""Makes what is kept of encoded queries and keys (B, 2·h, T, d) and values (B, h, T, d)."""
Phases = tuple[Tensor, Tensor]
"""Cosines and sines (T, d) that turn queries and keys (`worldmodel.attention.rotary`)."""

WEIGHTS = ("scale", "norm", "qkv", "qkv_bias", "out", "mlp", "mlp_bias", "mlp_norm", "mlp_out")
"""Those members of the struct that have gradients."""

_set_room, _forward, _backward = (
    Function(name, ctypes.POINTER(_Block)) for name in ("block_room", "block", "block_backward")
)


def reference(
    modules: Modules, keep: Keep, x: Tensor, weights: BlockWeights, phases: Phases, sight: Sight
) -> tuple[Tensor, Any]:
    """Return what becomes of those tokens x (B, T, E) that do more than be seen, and what is kept of them."""
    return modules()


def supports(
    modules: Modules, keep: Keep, x: Tensor, weights: BlockWeights, phases: Phases, sight: Sight
) -> bool:
    """Return whether C knows the attention, nothing came before the steps, and gradients are wanted."""
    known = weights.form is not None and weights.form.floor is None
    return known and torch.is_grad_enabled() and fits(x) and sight.covers(x.shape[1])


def call(
    modules: Modules, keep: Keep, x: Tensor, weights: BlockWeights, phases: Phases, sight: Sight
) -> tuple[Tensor, Any]:
    heads, form, *maps, mlp, mlp_out = weights
    assert form is not None
    first, last = sight.ends()
    constants = {"first": first, "last": last, "cosine": phases[0], "sine": phases[1]}
    tokens, asked = _TransformerBlock.apply(
        heads, form.normalized, sight.skip, constants, x, form.sharpness, *maps, *mlp, mlp_out
    )
    parts = asked.unflatten(-1, (3 * heads, -1)).transpose(1, 2)  # (B, 3·h, T, d)
    return tokens[:, sight.skip :], keep(*parts.split([2 * heads, heads], 1))


class _TransformerBlock(torch.autograd.Function):
    """x (B, T, E) and WEIGHTS → tokens (B, T, E), and what was asked (B, T, 3·h·d), without gradients."""

    @staticmethod
    def forward(
        ctx: Any, heads: int, normalized: bool, skip: int, constants: dict[str, Tensor], x: Tensor,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        inputs = {"x": x} | constants | dict(zip(WEIGHTS, weights, strict=True))
        inputs = {name: tensor.contiguous() for name, tensor in inputs.items()}
        rows, steps, width = x.shape
        hidden, attended = len(inputs["mlp"]), inputs["out"].shape[1]  # H, h·d
        ctx.sizes = {
            "threads": min(torch.get_num_threads(), rows), "B": rows, "T": steps, "E": width, "heads": heads,
            "d": attended // heads, "H": hidden, "normalized": normalized, "skip": skip,
        }  # fmt: skip
        shapes = {
            "rstd": (), "asked": (3 * attended,), "rstds": (2, heads), "attended": (attended,),
            "middle": (width,), "x_hat": (hidden,), "mlp_rstd": (), "y": (hidden,),
        }  # fmt: skip
        kept = {name: x.new_empty(rows, steps, *shape) for name, shape in shapes.items()}
        kept["marks"] = x.new_empty(rows, heads, steps)
        tokens = torch.empty_like(x, memory_format=torch.contiguous_format)
        _call(_forward, ctx.sizes, inputs | kept | {"tokens": tokens})
        ctx.names = [*inputs, *kept]
        ctx.save_for_backward(*inputs.values(), *kept.values())
        ctx.mark_non_differentiable(kept["asked"])
        return tokens, kept["asked"]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        saved = dict(zip(ctx.names, ctx.saved_tensors, strict=True))
        sums = {f"g_{name}": grad.new_zeros(ctx.sizes["threads"], *saved[name].shape) for name in WEIGHTS}
        g_x = torch.empty_like(saved["x"])
        _call(_backward, ctx.sizes, saved | sums | {"grad": grad.contiguous(), "g_x": g_x})
        gradients = (total[0] if len(total) == 1 else total.sum(0) for total in sums.values())
        return None, None, None, None, g_x, *gradients


def _call(function: Function, sizes: dict[str, int], tensors: dict[str, Tensor]) -> None:
    struct = _Block(**sizes, **{name: tensor.data_ptr() for name, tensor in tensors.items()})
    _set_room(struct)
    x = tensors["x"]
    work = x.new_empty(sizes["threads"], struct.room)
    # Room for every weight, its rows or columns filled up to whole panels.
    shapes = [tensors[name].shape for name in ("qkv", "out", "mlp", "mlp_out")]
    panels = x.new_empty(sum((out + PANEL) * (width + PANEL) for out, width in shapes))
    struct.work, struct.panels = work.data_ptr(), panels.data_ptr()
    function(struct)


transformer_block = Kernel("transformer_block", reference, call, supports)

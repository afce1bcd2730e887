"""A block of the transformer in C (native/c/block.c), with hand-written gradients.

    q, k, v, γ = W_a norm(x) + b;   x' = x + W_o·attention(q, k, v);   out = x' + W_2·SiLU(norm(W_1 x'))

One call goes through a whole block, sequence after sequence, so that what lies between the products
stays in the cache; weight gradients are added up on the way. Attention looks at pairs of a query and the
keys from `first` on, without a mask in memory. It is there for exact `softmax`, `coherent` and `born`
over steps with nothing before them; all else (noise, curricula, draws, stored pasts) takes the modules.
"""

import ctypes
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from qdreamer.native import kernels
from qdreamer.worldmodel.attention.born import Born
from qdreamer.worldmodel.attention.coherent import Coherent
from qdreamer.worldmodel.attention.encodings import RealAmplitudes
from qdreamer.worldmodel.attention.rotary import Phases
from qdreamer.worldmodel.attention.softmax import Softmax
from qdreamer.worldmodel.sequence_models.context import QKV, KeyValueAttention, RecurrentAttention
from qdreamer.worldmodel.sequence_models.interface import leaves

if TYPE_CHECKING:
    from qdreamer.worldmodel.sequence_models.transformer import Block

MOST_PAIRS = 256
"""Steps up to which `born` takes all pairs; its chunked form is linear in them."""

SIZES = "threads B T E heads d H Q overlaps normed room"
TENSORS = """
    first x cosine sine scale floor s_ask w_ask b_ask w_out w_in b_in s_in w_back
    inverse asked lengths attended marks totals middle unit unit_inverse y out
    grad g_x g_scale g_s_ask g_w_ask g_b_ask g_w_out g_w_in g_b_in g_s_in g_w_back
    panels work
"""
"""The struct's members in their order; see native/c/block.c."""
WEIGHTS = ("scale", "s_ask", "w_ask", "b_ask", "w_out", "w_in", "b_in", "s_in", "w_back")


class _Block(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in SIZES.split()),
        *((name, ctypes.c_void_p) for name in TENSORS.split()),
    ]


def supports(block: "Block", x: Tensor, past: Any) -> bool:
    """Whether this file knows the block, with tokens x (B, T, E) after such a past."""
    if not (torch.is_grad_enabled() and kernels.fit(x)) or any(part.numel() for part in leaves(past)):
        return False
    attention, kind = block.attention, block.attention.kind
    if kind.noise:
        return False
    if type(attention) is KeyValueAttention:
        return isinstance(kind, Softmax | Coherent) and block.decay is None
    if type(attention) is RecurrentAttention and type(kind) is Born:
        real = isinstance(kind.encoding, RealAmplitudes) and not kind.measured
        return real and block.decay is not None and x.shape[1] <= MOST_PAIRS
    return False


def run(block: "Block", x: Tensor, first: Tensor, turn: Phases) -> tuple[Tensor, QKV]:
    """The block on tokens x (B, T, E) → tokens, and its heads, without gradients and encoded.

    Args:
        first: (B, T), the first step that each step sees; none before its episode.
        turn: phases of the T positions.
    """
    kind, norm, decay = block.attention.kind, block.norm.scale, block.decay
    born = isinstance(kind, Born)
    if isinstance(kind, Coherent):
        scale = 2.0 * kind.photons()
    else:
        scale = norm.new_full((block.heads,), kind.scale if isinstance(kind, Softmax) else 1.0)
    w_ask: Tensor = block.qkv.weight
    b_ask: Tensor = block.qkv.bias
    if decay is not None:
        w_ask, b_ask = torch.cat([w_ask, decay.weight]), torch.cat([b_ask, decay.bias])
    linear, silu = block.mlp.layer(0)
    constants = {
        "first": first, "cosine": turn.cos, "sine": turn.sin,
        "floor": norm.new_tensor(kind.floor if born else 0.0),
    }  # fmt: skip
    sizes = {"heads": block.heads, "overlaps": int(born), "normed": int(not isinstance(kind, Softmax))}
    out, asked = _Function.apply(
        sizes, constants, x, scale, norm, w_ask, b_ask, block.out.weight,
        linear.weight, linear.bias, silu.scale, block.mlp_out.weight,
    )  # fmt: skip
    width = 3 * block.out.weight.shape[1]
    parts = asked[..., :width].unflatten(-1, (3 * block.heads, -1)).transpose(1, 2)  # (B, 3·h, T, d)
    qk, v = parts.split([2 * block.heads, block.heads], 1)
    return out, QKV(qk, v, None if decay is None else asked[..., width:].transpose(1, 2))


class _Function(torch.autograd.Function):
    """x (B, T, E) and WEIGHTS → tokens (B, T, E), and what was asked (B, T, Q), without gradients."""

    @staticmethod
    def forward(
        ctx: Any, sizes: dict[str, int], constants: dict[str, Tensor], x: Tensor, *weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        named = dict(zip(WEIGHTS, weights, strict=True))
        sizes = sizes | _shapes(x, named, sizes["heads"])
        rows, steps, heads = sizes["B"], sizes["T"], sizes["heads"]
        attended = heads * sizes["d"]
        shapes = {
            "inverse": (), "asked": (sizes["Q"],), "lengths": (2, heads), "attended": (attended,),
            "middle": (sizes["E"],), "unit": (sizes["H"],), "unit_inverse": (), "y": (sizes["H"],),
        }  # fmt: skip
        kept = {name: x.new_empty(rows, steps, *shape) for name, shape in shapes.items()}
        kept["marks"] = x.new_empty(rows, heads, steps)
        kept["totals"] = x.new_empty(kept["marks"].shape if sizes["overlaps"] else 0, dtype=torch.float64)
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        inputs = {name: tensor.contiguous() for name, tensor in ({"x": x} | named | constants).items()}
        _call("block", sizes, inputs | kept | {"out": out})
        ctx.sizes, ctx.names = sizes, [*inputs, *kept]
        ctx.save_for_backward(*inputs.values(), *kept.values())
        ctx.mark_non_differentiable(kept["asked"])
        return out, kept["asked"]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        saved = dict(zip(ctx.names, ctx.saved_tensors, strict=True))
        sums = {f"g_{name}": grad.new_zeros(ctx.sizes["threads"], *saved[name].shape) for name in WEIGHTS}
        g_x = torch.empty_like(saved["x"])
        _call("block_backward", ctx.sizes, saved | sums | {"grad": grad.contiguous(), "g_x": g_x})
        gradients = (total[0] if len(total) == 1 else total.sum(0) for total in sums.values())
        return None, None, g_x, *gradients


def _shapes(x: Tensor, w: dict[str, Tensor], heads: int) -> dict[str, int]:
    """The struct's sizes that follow from the shapes of tokens and weights."""
    rows, steps, width = x.shape
    return {
        "threads": min(torch.get_num_threads(), rows),
        "B": rows,
        "T": steps,
        "E": width,
        "d": w["w_out"].shape[1] // heads,
        "H": len(w["w_in"]),
        "Q": len(w["w_ask"]),
    }


def _call(function: str, sizes: dict[str, int], tensors: dict[str, Tensor]) -> None:
    struct = _Block(**sizes, **{name: tensor.data_ptr() for name, tensor in tensors.items()})
    library = kernels.functions()
    library.block_room(ctypes.byref(struct))
    like = tensors["x"]
    work = like.new_empty(sizes["threads"], struct.room)
    # Room for every weight, its rows or columns filled up to whole panels.
    most = sum(_filled(tensors[name].shape) for name in ("w_ask", "w_out", "w_in", "w_back"))
    panels = like.new_empty(most)
    struct.work, struct.panels = work.data_ptr(), panels.data_ptr()
    getattr(library, function)(ctypes.byref(struct))


def _filled(shape: torch.Size) -> int:
    rows, columns = shape
    panel = 32  # at most so wide
    return max(rows * -(-columns // panel), columns * -(-rows // panel)) * panel

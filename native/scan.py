"""The scan of block GRU and coupled posterior over time, in C with hand-written gradients (native/c/scan.c).

The reference is the loop itself, whose step is the caller's; autograd records some fifty small operations for
each of the T steps. In C nothing is recorded, the derivatives of all non-linearities are taken at once, and
every weight's gradient is one product over all B·T rows after the loop.

Notation: h state, z latent, x = [f(h), f(z)] the GRU's input, y its hidden layer, q the posterior's; x̂ and
1/rms as in `mlp`; g_… are gradients, `_pre` is before RMSNorm and SiLU.
"""

import ctypes
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from qdreamer.native.dispatch import Function, Kernel, fits
from qdreamer.native.library import FLOAT, INT32, INT64, POINTER, Struct, members
from qdreamer.native.structs import CallMemory, GRUStruct, GRUWeights, threads_for


class PosteriorWeights(NamedTuple):
    """The weights of a coupled posterior with one layer, (out, in)."""

    w_q: Tensor  # h → q
    s_q: Tensor
    w_out: Tensor  # q → logits
    b_out: Tensor


class ScanWeights(NamedTuple):
    """The weights of a step, as far as C knows them."""

    gru: object  # GRUWeights, or another sequence model's
    posterior: PosteriorWeights | None
    unimix: float


class ScanInputs(NamedTuple):
    prepared: Tensor  # (B, T, U), the embedding's half of the posterior
    action_embedding: Tensor  # (B, T, D), the action's part of the GRU's hidden layer
    is_first: Tensor  # (B, T)
    noise: Tensor  # (B, T, S), U[0, 1); or (B, T, S, K), held draws: z = q + noise


Step = Callable[[Any, Tensor, ScanInputs], tuple[Any, Tensor, Tensor, Tensor]]
"""state, z, inputs of one time → state, h (B, D), z (B, S·K), posterior (B, S, K)"""


Output = tuple[Tensor, Tensor, Tensor]
"""h (B, T, D), z (B, T, S·K), one-hot and straight-through, and posterior (B, T, S, K), probabilities"""


def reference(step: Step, weights: ScanWeights, inputs: ScanInputs, state: Any, z: Tensor) -> Output:
    """Filter T steps, from the sequence model's state, (B, D) of the GRU, and the latent z (B, S·K)."""
    outputs = []
    for now in map(ScanInputs, *(x.unbind(1) for x in inputs)):
        state, h, z, probs = step(state, z, now)
        outputs.append((h, z, probs))
    h, z, posterior = (torch.stack(steps, 1) for steps in zip(*outputs, strict=True))
    return h, z, posterior


def supports(step: Step, weights: ScanWeights, inputs: ScanInputs, state: Any, z: Tensor) -> bool:
    known = isinstance(weights.gru, GRUWeights) and weights.posterior is not None
    return known and fits(*inputs, state, z)


def call(step: Step, weights: ScanWeights, inputs: ScanInputs, state: Any, z: Tensor) -> Output:
    gru, posterior, unimix = weights
    assert isinstance(gru, GRUWeights)
    assert posterior is not None
    by_time = (x.transpose(0, 1).contiguous() for x in inputs._replace(is_first=1.0 - inputs.is_first))
    outputs = _Scan.apply(unimix, *by_time, state, z, *gru, *posterior)
    h, z, probs = (x.transpose(0, 1) for x in outputs)
    return h.contiguous(), z, probs


class _Scan(torch.autograd.Function):
    """Time comes first inside: (T, B, ·)."""

    @staticmethod
    def forward(
        ctx: Any, unimix: float, prepared: Tensor, action_embedding: Tensor, keep: Tensor, noise: Tensor,
        state: Tensor, z: Tensor, *weights: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        gru, posterior = GRUWeights(*weights[:-4]), PosteriorWeights(*weights[-4:])
        steps, rows, latents = noise.shape[:3]
        hidden, units = len(gru.w_h), len(posterior.w_q)
        deter, width = gru.w_h.shape[1], len(posterior.b_out)
        shapes: dict[str, tuple[int, ...]] = {
            "h_in": (deter,), "z_in": (width,),
            "x_hat": (2, hidden), "x_rstd": (2,), "x": (2 * hidden,),
            "y_hat": (deter,), "y_rstd": (1,), "y": (deter,), "slopes": (3 * deter,), "stay": (deter,),
            "q_hat": (units,), "q_rstd": (1,), "q": (units,), "pure": (latents, width // latents),
            "posterior": (latents, width // latents), "h": (deter,), "z": (width,),
        }  # fmt: skip
        kept = {name: prepared.new_empty(steps, rows, *shape) for name, shape in shapes.items()}
        inputs = {
            "prepared": prepared, "action_embedding": action_embedding, "keep": keep, "noise": noise,
            "state": state, "stoch": z, "w_q": posterior.w_q.t(), "s_q": posterior.s_q,
            "w_out": posterior.w_out.t(), "b_out": posterior.b_out,
        }  # fmt: skip
        held = noise.dim() == 4
        _run(_scan, unimix, gru._replace(w_z=gru.w_z.t()), inputs | kept, held)
        outputs = kept["h"], kept.pop("z"), kept.pop("posterior")
        ctx.unimix, ctx.names = unimix, list(kept)
        ctx.save_for_backward(keep, *weights, *kept.values())
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_h: Tensor, grad_z: Tensor, grad_posterior: Tensor) -> tuple[Any, ...]:
        keep, *saved = ctx.saved_tensors
        count = len(saved) - len(ctx.names)
        gru, posterior = GRUWeights(*saved[: count - 4]), PosteriorWeights(*saved[count - 4 : count])
        kept = dict(zip(ctx.names, saved[count:], strict=True))
        (hidden, deter), (width, units), blocks = gru.w_h.shape, posterior.w_out.shape, len(gru.w_recur)
        steps, rows = keep.shape
        threads = min(torch.get_num_threads(), rows)
        sizes = {"logits": width, "q_pre": units, "gates": 3 * deter, "y_pre": deter, "x_pre": 2 * hidden}
        g = {f"g_{name}": keep.new_empty(steps, rows, size) for name, size in sizes.items()}
        scales = {"g_s_x": 2 * hidden, "g_s_y": deter, "g_s_q": units}
        g |= {name: keep.new_zeros(threads, size) for name, size in scales.items()}
        g |= {"next_h": keep.new_empty(rows, deter), "next_z": keep.new_empty(rows, width)}
        inputs = {
            "keep": keep, "w_q": posterior.w_q, "s_q": posterior.s_q, "w_out": posterior.w_out,
            "grad_h": grad_h, "grad_z": grad_z, "grad_posterior": grad_posterior,
            "wide": keep.new_empty(2, rows, deter),
        }  # fmt: skip
        transposed = gru._replace(w_recur=gru.w_recur.mT, w_gates=gru.w_gates.mT)
        _run(_scan_backward, ctx.unimix, transposed, kept | g | inputs)

        # Every gradient is a product over all steps and rows.
        g |= {f"g_{name}": g[f"g_{name}"].flatten(0, 1) for name in sizes}
        kept = {name: tensor.flatten(0, 1) for name, tensor in kept.items()}
        (h_pre, z_pre), (s_h, s_z) = g["g_x_pre"].chunk(2, -1), g["g_s_x"].sum(0).chunk(2)
        of_gru = GRUWeights(
            w_h=_product(h_pre, kept["h_in"]), b_h=h_pre.sum(0), s_h=s_h,
            w_z=_product(z_pre, kept["z_in"]), b_z=z_pre.sum(0), s_z=s_z,
            w_recur=_products(kept["h_in"], g["g_y_pre"], blocks),
            w_mix=_product(g["g_y_pre"], kept["x"]), s_y=g["g_s_y"].sum(0),
            w_gates=_products(kept["y"], g["g_gates"], blocks), b_gates=g["g_gates"].sum(0),
        )  # fmt: skip
        of_posterior = PosteriorWeights(
            w_q=_product(g["g_q_pre"], kept["h"]), s_q=g["g_s_q"].sum(0),
            w_out=_product(g["g_logits"], kept["q"]), b_out=g["g_logits"].sum(0),
        )  # fmt: skip
        of_inputs = (g["g_q_pre"].view(steps, rows, -1), g["g_y_pre"].view(steps, rows, -1), None, None)
        return None, *of_inputs, g["next_h"], g["next_z"], *of_gru, *of_posterior


_transposed_product = Function("transposed_product", INT32, *[INT64] * 4, *[POINTER, INT64] * 2, POINTER)


def _products(a: Tensor, b: Tensor, blocks: int) -> Tensor:
    """Return aᵀ·b block by block, (R, g·n), (R, g·m) → (g, n, m); see c/transposed_product.c."""
    n, m = a.shape[1] // blocks, b.shape[1] // blocks
    out = a.new_empty(blocks, n, m)
    sizes = threads_for(len(a), out.numel()), len(a), blocks, n, m
    _transposed_product(*sizes, a.data_ptr(), a.stride(0), b.data_ptr(), b.stride(0), out.data_ptr())
    return out


def _product(a: Tensor, b: Tensor) -> Tensor:
    return _products(a, b, 1)[0]


class ScanStruct(Struct, name="scan"):
    """See native/c/scan.c."""

    _fields_ = (
        *members(INT64, "threads T B U S K held"),
        *members(POINTER, "gru prepared action_embedding keep noise state stoch w_q s_q w_out b_out"),
        *members(POINTER, "h_in z_in x_hat x_rstd x y_hat y_rstd y slopes stay"),
        *members(POINTER, "q_hat q_rstd q pure posterior h z grad_h grad_z grad_posterior"),
        *members(POINTER, "g_logits g_q_pre g_gates g_y_pre g_x_pre g_s_x g_s_y g_s_q next_h next_z wide"),
        ("unimix", FLOAT),
    )


_scan, _scan_backward = (Function(name, ctypes.POINTER(ScanStruct)) for name in ("scan", "scan_backward"))


def _run(
    function: Function, unimix: float, gru: GRUWeights, tensors: dict[str, Tensor], held: bool = False
) -> None:
    memory = CallMemory(tensors["keep"])
    pointers = {name: memory.pointer(tensor) for name, tensor in tensors.items()}
    cell = memory.address(GRUStruct(memory, gru))
    (steps, rows, latents, classes), units = tensors["pure"].shape, tensors["q_hat"].shape[-1]
    threads = min(torch.get_num_threads(), rows)
    sizes = threads, steps, rows, units, latents, classes, held
    function(ScanStruct(*sizes, gru=cell, unimix=unimix, **pointers))


scan = Kernel("scan", reference, call, supports)

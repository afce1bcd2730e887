"""Fused element-wise kernels for a CPU (native/c/*.c), where a C compiler is at hand.

torch makes one pass over memory for each operation; between two matrix products that is more time
than the product takes. Each function here is one pass over the rows. They are off until `use(True)`;
`fit` says whether they are on and know the tensors at hand, and otherwise the torch code beside
every call does the same to rounding. They record no gradients.
"""

import ctypes
from functools import cache

import torch
from torch import Tensor

from qdreamer.native import dispatch
from qdreamer.native.library import load_library

INTEGER, LONG, FLOAT, POINTER = ctypes.c_int32, ctypes.c_int64, ctypes.c_float, ctypes.c_void_p
SIGNATURES = {
    "draw_latents": [INTEGER, LONG, LONG, LONG, FLOAT, *[POINTER] * 4, LONG],
    "laprop": [INTEGER, LONG, *[POINTER] * 5, *[FLOAT] * 7],
    "lerp": [LONG, *[POINTER] * 3, FLOAT],
    "norms": [LONG, *[POINTER] * 3],
    "draw_prior": [POINTER],
    "rollout": [POINTER],
    "pack": [LONG, LONG, POINTER, POINTER],
    "share_past": [POINTER],
    "phase_table": [LONG, LONG, LONG, POINTER, POINTER],
    "imagine": [*[POINTER] * 3, LONG, POINTER, LONG],
    "imagine_scratch": [POINTER],
    "rms_norm": [INTEGER, LONG, LONG, *[POINTER] * 4],
    "rms_norm_backward": [INTEGER, LONG, LONG, *[POINTER] * 6],
    "unimix_probs": [INTEGER, LONG, LONG, FLOAT, *[POINTER] * 3],
    "unimix_probs_backward": [INTEGER, LONG, LONG, FLOAT, *[POINTER] * 3],
    "draw_one_hot": [INTEGER, LONG, LONG, *[POINTER] * 3],
    "block_room": [POINTER],
    "block": [POINTER],
    "block_backward": [POINTER],
    "tree_descend": [POINTER, LONG, LONG, LONG, POINTER, POINTER],
    "tree_find": [POINTER, POINTER, LONG, LONG, POINTER, LONG, POINTER, POINTER],
    "tree_sum": [POINTER, POINTER, LONG, LONG, LONG, POINTER],
}
RESULTS = {"imagine_scratch": LONG}

use, on = dispatch.use, dispatch.on


def fit(x: Tensor) -> bool:
    """Whether the kernels are on and know such tensors: float32 on a CPU, rows without gaps inside."""
    return on() and dispatch.fits(x)


def fit_all(*lists: list[Tensor]) -> bool:
    """Whether the kernels are on and know all of these tensors, whose memory is without gaps."""
    return on() and all(
        x.dtype == torch.float32 and x.is_cpu and x.is_contiguous() for tensors in lists for x in tensors
    )


@cache
def functions() -> ctypes.CDLL:
    """The library. Gradients end with it what began with it, also after it was switched off."""
    library = load_library()
    for name, arguments in SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, RESULTS.get(name)
    return library


def draw_latents(logits: Tensor, bias: Tensor, uniform: Tensor, unimix: float, out: Tensor) -> None:
    """One-hot draws into `out` (R, S·K) from logits (R, K, S), classes first, before their bias (K·S)."""
    rows, classes, latents = logits.shape
    uniform = uniform.contiguous()
    functions().draw_latents(
        torch.get_num_threads(), rows, latents, classes, unimix, logits.data_ptr(), bias.data_ptr(),
        uniform.data_ptr(), out.data_ptr(), out.stride(0),
    )  # fmt: skip


class _Prior(ctypes.Structure):
    """See native/c/prior.c."""

    _fields_ = [
        *((name, LONG) for name in ("threads", "N", "D", "units", "layers", "S", "K", "h_stride")),
        *((name, POINTER) for name in ("unimix", "h", "noise", "z", "scratch", "weights")),
    ]


def draw_prior(h: Tensor, weights: list[Tensor], uniform: Tensor, unimix: float) -> Tensor:
    """One-hot draws (R, S·K) from the logits that an MLP makes of h (R, D), and U[0, 1) variables (R, S).

    `weights`: weight, bias and scale of every layer, then weight and bias of the logits.
    """
    (rows, deter), latents, logits = h.shape, uniform.shape[1], len(weights[-1])
    weights = [weight.contiguous() for weight in weights]
    uniform = uniform.contiguous()
    layers, units = len(weights) // 3, weights[-2].shape[1]
    threads = torch.get_num_threads()
    panels = deter + (layers + 1) * units  # each weight has so many inputs, and its outputs fill panels
    z = h.new_empty(rows, logits)
    scratch = h.new_empty(panels * (max(units, logits) + ROOM) + threads * ROOM * (2 * units + logits))
    pointers = (POINTER * len(weights))(*(weight.data_ptr() for weight in weights))
    mixed = FLOAT(unimix)
    prior = _Prior(
        threads, rows, deter, units, layers, latents, logits // latents, h.stride(0), ctypes.addressof(mixed),
        h.data_ptr(), uniform.data_ptr(), z.data_ptr(), scratch.data_ptr(), ctypes.addressof(pointers),
    )  # fmt: skip
    functions().draw_prior(ctypes.byref(prior))
    return z


ROOM = 32
"""The largest panel of native/c/products.h and the rows of a block of native/c/prior.c."""


def rms_norm(x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """scale·x/rms(x) of rows x (…, D) without gaps, and 1/rms (R)."""
    y, inverse = torch.empty_like(x), x.new_empty(x.numel() // x.shape[-1])
    functions().rms_norm(
        torch.get_num_threads(), len(inverse), x.shape[-1], x.data_ptr(), scale.data_ptr(),
        inverse.data_ptr(), y.data_ptr(),
    )  # fmt: skip
    return y, inverse


def rms_norm_backward(grad: Tensor, x: Tensor, inverse: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x and scale from that of the output, (…, D) without gaps."""
    grad_x, sums = torch.empty_like(x), make_sums(x.shape[-1])
    functions().rms_norm_backward(
        len(sums), len(inverse), x.shape[-1], grad.data_ptr(), x.data_ptr(), inverse.data_ptr(),
        scale.data_ptr(), grad_x.data_ptr(), sums.data_ptr(),
    )  # fmt: skip
    return grad_x, sums.sum(0)


def unimix_probs(logits: Tensor, unimix: float) -> tuple[Tensor, Tensor]:
    """Logits (…, K) without gaps → softmax, and the same with a part `unimix` of the uniform distribution."""
    pure, mixed = torch.empty_like(logits), torch.empty_like(logits)
    classes = logits.shape[-1]
    functions().unimix_probs(
        torch.get_num_threads(), logits.numel() // classes, classes, unimix, logits.data_ptr(),
        pure.data_ptr(), mixed.data_ptr(),
    )  # fmt: skip
    return pure, mixed


def unimix_probs_backward(grad: Tensor, pure: Tensor, unimix: float) -> Tensor:
    """Gradient of the logits from that of the mixed probabilities, (…, K) without gaps."""
    out, classes = torch.empty_like(pure), pure.shape[-1]
    functions().unimix_probs_backward(
        torch.get_num_threads(), pure.numel() // classes, classes, unimix, grad.data_ptr(), pure.data_ptr(),
        out.data_ptr(),
    )  # fmt: skip
    return out


def draw_one_hot(probs: Tensor, uniform: Tensor) -> Tensor:
    """One-hot draws from probabilities (…, K) without gaps, with U[0, 1) numbers (…)."""
    out, classes, uniform = torch.empty_like(probs), probs.shape[-1], uniform.contiguous()
    functions().draw_one_hot(
        torch.get_num_threads(), probs.numel() // classes, classes, probs.data_ptr(), uniform.data_ptr(),
        out.data_ptr(),
    )  # fmt: skip
    return out


def make_sums(*shape: int) -> Tensor:
    """Zeros (threads, *shape) for what the threads add up, each in its own part."""
    return torch.zeros(torch.get_num_threads(), *shape)


def laprop(
    params: list[Tensor], grads: list[Tensor], seconds: list[Tensor], momenta: list[Tensor],
    agc: float, pmin: float, beta1: float, beta2: float, correction: float, epsilon: float, rate: float,
) -> None:  # fmt: skip
    """One step θ ← θ − rate·m of LaProp, `correction` being that of the root; gradients stay."""
    functions().laprop(
        torch.get_num_threads(), len(params), _sizes(params), _list(params), _list(grads), _list(seconds),
        _list(momenta), agc, pmin, beta1, beta2, correction, epsilon, rate,
    )  # fmt: skip


def lerp_(averages: list[Tensor], values: list[Tensor], weight: float) -> None:
    """averages ← averages + weight·(values − averages)."""
    functions().lerp(len(averages), _sizes(averages), _list(averages), _list(values), weight)


def norms(tensors: list[Tensor]) -> Tensor:
    """The length of each, (len(tensors),)."""
    out = torch.empty(len(tensors))
    functions().norms(len(tensors), _sizes(tensors), _list(tensors), out.data_ptr())
    return out


def _list(tensors: list[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    return (POINTER * len(tensors))(*(x.data_ptr() for x in tensors))


def _sizes(tensors: list[Tensor]) -> ctypes.Array[ctypes.c_int64]:
    return (LONG * len(tensors))(*(x.numel() for x in tensors))

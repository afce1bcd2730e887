"""The scan's loops over time in C (native/c/scan.c): tensors to pointers and back.

A step of the loop is some fifty operations on a few rows, each of which takes torch longer to
dispatch than to do. Rows are shared out among the threads, each for all of time.
"""

import ctypes

import torch
from torch import Tensor

from qdreamer.native import kernels
from qdreamer.native.scan_weights import ScanWeights

SIZES = "threads T B D H blocks U S K"
TENSORS = """
    prepared drive keep noise state stoch w_h b_h w_z b_z s_x w_recur w_mix s_y w_gates b_gates w_q s_q w_out
    b_out unimix
    h_in z_in x_unit x_inverse x y_unit y_inverse y slopes stay q_unit q_inverse q pure posterior h z
    grad_h grad_z grad_posterior
    g_logits g_q_pre g_gates g_y_pre g_x_pre g_s_x g_s_y g_s_q next_h next_z
    wide
"""
"""The struct's members in their order; see native/c/scan.c."""


class _Scan(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in SIZES.split()),
        *((name, ctypes.c_void_p) for name in TENSORS.split()),
    ]


def forward(
    unimix: float, prepared: Tensor, drive: Tensor, keep: Tensor, noise: Tensor,
    state: Tensor, stoch: Tensor, w: ScanWeights,
) -> dict[str, Tensor]:  # fmt: skip
    """What the steps make and the gradients need, (T, B, ·) by name; inputs as in `worldmodel.scan`."""
    sizes = _sizes(w, noise.shape)
    steps, rows, deter, units = (sizes[name] for name in ("T", "B", "D", "U"))
    latents = sizes["S"] * sizes["K"]
    width = deter // sizes["blocks"]
    gate_bias = w.b_gates.view(-1, 3, width) - w.b_gates.new_tensor([0.0, 0.0, 1.0]).view(1, 3, 1)
    inputs = {
        "prepared": prepared, "drive": drive, "keep": keep, "noise": noise, "state": state, "stoch": stoch,
        "w_h": w.w_h.t(), "b_h": w.b_h, "w_z": w.w_z.t(), "b_z": w.b_z, "s_x": w.s_x, "w_recur": w.w_recur,
        "w_mix": w.w_mix.t(), "s_y": w.s_y, "w_gates": w.w_gates, "b_gates": gate_bias,
        "w_q": w.w_q.t(), "s_q": w.s_q, "w_out": w.w_out.t(), "b_out": w.b_out,
        "unimix": torch.tensor(unimix),
    }  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {
        "h_in": (deter,), "z_in": (latents,),
        "x_unit": (2, sizes["H"]), "x_inverse": (2,), "x": (2 * sizes["H"],),
        "y_unit": (deter,), "y_inverse": (1,), "y": (deter,), "slopes": (3 * deter,), "stay": (deter,),
        "q_unit": (units,), "q_inverse": (1,), "q": (units,), "pure": (sizes["S"], sizes["K"]),
        "posterior": (sizes["S"], sizes["K"]), "h": (deter,), "z": (latents,),
    }  # fmt: skip
    kept = {name: drive.new_empty(steps, rows, *shape) for name, shape in shapes.items()}
    _call("scan", sizes, inputs | kept)
    return kept


def backward(
    unimix: float, keep: Tensor, w: ScanWeights, kept: dict[str, Tensor],
    grad_h: Tensor, grad_z: Tensor, grad_posterior: Tensor,
) -> dict[str, Tensor]:  # fmt: skip
    """Gradients by name, as `worldmodel.scan` has them."""
    sizes = _sizes(w, kept["pure"].shape[:3])
    steps, rows, deter, hidden = (sizes[name] for name in ("T", "B", "D", "H"))
    threads, units, latents = sizes["threads"], sizes["U"], sizes["S"] * sizes["K"]
    inputs = {
        "keep": keep, "w_h": w.w_h, "w_z": w.w_z, "s_x": w.s_x, "w_recur": w.w_recur.mT, "w_mix": w.w_mix,
        "s_y": w.s_y, "w_gates": w.w_gates.mT, "w_q": w.w_q, "s_q": w.s_q, "w_out": w.w_out,
        "unimix": torch.tensor(unimix), "grad_h": grad_h, "grad_z": grad_z, "grad_posterior": grad_posterior,
    }  # fmt: skip
    widths = {"logits": latents, "q_pre": units, "gates": 3 * deter, "y_pre": deter}
    g = {name: keep.new_empty(steps, rows, width) for name, width in widths.items()}
    g["x_pre"] = keep.new_empty(steps, rows, 2, hidden)
    sums = {
        "s_x": keep.new_zeros(threads, 2, hidden),
        "s_y": keep.new_zeros(threads, deter),
        "s_q": keep.new_zeros(threads, units),
    }
    first = {"next_h": keep.new_empty(rows, deter), "next_z": keep.new_empty(rows, latents)}
    named = {f"g_{name}": tensor for name, tensor in (g | sums).items()}
    wide = keep.new_empty(2, rows, deter)
    needed = {name: kept[name] for name in kept.keys() & set(TENSORS.split())}
    _call("scan_backward", sizes, inputs | needed | named | first | {"wide": wide})
    return g | {name: total.sum(0) for name, total in sums.items()} | first


def _sizes(w: ScanWeights, shape: torch.Size) -> dict[str, int]:
    """The struct's sizes; `shape` is (T, B, S)."""
    steps, rows, latents = shape
    return {
        "threads": min(torch.get_num_threads(), rows),
        "T": steps,
        "B": rows,
        "D": w.w_h.shape[1],
        "H": w.w_h.shape[0],
        "blocks": len(w.w_recur),
        "U": w.w_q.shape[0],
        "S": latents,
        "K": w.w_out.shape[0] // latents,
    }


def _call(function: str, sizes: dict[str, int], tensors: dict[str, Tensor]) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    pointers = {name: tensor.data_ptr() for name, tensor in tensors.items()}
    getattr(kernels.functions(), function)(ctypes.byref(_Scan(**sizes, **pointers)))

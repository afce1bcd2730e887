"""The scan of block GRU and coupled posterior over time, with a hand-written backward pass.

It computes what the loop in `CoupledRSSM` computes. Autograd would record some forty small
operations for each of the T steps and multiply weight gradients from B rows T times; here

* nothing is recorded: the forward pass keeps its activations and no graph;
* all derivatives of non-linearities are taken for all steps at once before the backward loop;
* the loop carries only what depends on the next step (backpropagation through time);
* every weight's gradient is one product over all B·T rows after it.

Notation: h state, z latent, x = f([h, z]) the GRU's input, y its hidden layer, q the posterior's;
G… are gradients with respect to …, `_pre` is before RMSNorm and SiLU. Time comes first: (T, B, ·).
"""

from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from qdreamer.native import kernels, scan_native
from qdreamer.native.norm_silu import EPS
from qdreamer.native.products import affine, affine_add, blockwise, product
from qdreamer.native.scan_weights import ScanWeights
from qdreamer.worldmodel.networks.categorical import one_hot, sample_index, softmax
from qdreamer.worldmodel.posterior import CoupledPosterior
from qdreamer.worldmodel.sequence_models.gru import BlockGRU, tanh


class ScanOutput(NamedTuple):
    h: Tensor  # (T, B, D)
    z: Tensor  # (T, B, S·K), one-hot, straight-through
    posterior: Tensor  # (T, B, S, K), probabilities


def supports(sequence: object, posterior: CoupledPosterior) -> TypeGuard[BlockGRU]:
    """Whether the scan knows these networks: one layer each, as in all sizes of DreamerV3."""
    # A subclass may step differently.
    return type(sequence) is BlockGRU and not len(sequence.more) and not len(posterior.hidden)


def coupled_scan(
    sequence: BlockGRU,
    posterior: CoupledPosterior,
    unimix: float,
    prepared: Tensor,
    action_embedding: Tensor,
    is_first: Tensor,
    noise: Tensor,
    state: Tensor,
    stoch: Tensor,
) -> ScanOutput:
    """Filter T steps.

    Args:
        prepared: (T, B, U), the embedding's half of the posterior. action_embedding: (T, B, D), the action's
            part of the GRU's hidden layer. is_first: (T, B). noise: (T, B, S), U[0, 1); or (T, B, S, K),
            draws held as they are (`categorical.frozen_sample`).
        state: (B, D) and stoch: (B, S·K), before the first step.
    """
    # On a CPU it is cheap to ask which steps begin an episode in some row: most do in none.
    some_first = is_first.any(1).tolist() if is_first.is_cpu else [True] * len(is_first)
    deter_in, deter_norm = sequence.deter_in.layer(0)
    stoch_in, stoch_norm = sequence.stoch_in.layer(0)
    outputs = _CoupledScan.apply(
        unimix, some_first, prepared, action_embedding, (1.0 - is_first).unsqueeze(-1), noise, state, stoch,
        *ScanWeights(
            deter_in.weight, deter_in.bias, stoch_in.weight, stoch_in.bias,
            torch.stack([deter_norm.scale, stoch_norm.scale]),
            sequence.recur.weight, sequence.mix_state.weight, sequence.norm.scale,
            sequence.gates.weight, sequence.gates.bias,
            posterior.from_deter.weight, posterior.norm.scale, posterior.out.weight, posterior.out.bias,
        ),
    )  # fmt: skip
    return ScanOutput(*outputs)


class _CoupledScan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, unimix: float, some_first: list[bool],
        prepared: Tensor, action_embedding: Tensor, keep: Tensor, noise: Tensor, h: Tensor, z: Tensor,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        w = ScanWeights(*weights)
        ctx.native = kernels.fit(action_embedding) and noise.dim() == 3
        if ctx.native:
            saved = scan_native.forward(unimix, prepared, action_embedding, keep, noise, h, z, w)
        else:
            saved = _forward(unimix, some_first, prepared, action_embedding, keep, noise, h, z, w)
        outputs = saved["h"], saved.pop("z"), saved.pop("posterior")
        ctx.unimix, ctx.some_first, ctx.names = unimix, some_first, list(saved)
        ctx.save_for_backward(keep, *weights, *saved.values())
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_h: Tensor, grad_z: Tensor, grad_posterior: Tensor) -> tuple[Any, ...]:
        keep, *rest = ctx.saved_tensors
        w, rest = ScanWeights(*rest[: len(ScanWeights._fields)]), rest[len(ScanWeights._fields) :]
        a = dict(zip(ctx.names, rest, strict=True))
        if ctx.native:
            g = scan_native.backward(ctx.unimix, keep, w, a, grad_h, grad_z, grad_posterior)
        else:
            g = _backward(ctx.unimix, ctx.some_first, keep, w, a, grad_h, grad_z, grad_posterior)
        blocks = len(w.w_recur)

        def outer(gradient: Tensor, inputs: Tensor) -> Tensor:
            """Σ over all steps and rows of gradientᵀ·inputs."""
            return product(gradient.flatten(0, 1).t(), inputs.flatten(0, 1))

        h_pre, z_pre = g["x_pre"].unbind(2)
        gradients = ScanWeights(
            w_h=outer(h_pre, a["h_in"]), b_h=h_pre.sum((0, 1)),
            w_z=outer(z_pre, a["z_in"]), b_z=z_pre.sum((0, 1)), s_x=g["s_x"],
            w_recur=_block_product(a["h_in"], g["y_pre"], blocks),
            w_mix=outer(g["y_pre"], a["x"]), s_y=g["s_y"],
            w_gates=_block_product(a["y"], g["gates"], blocks), b_gates=g["gates"].sum((0, 1)),
            w_q=outer(g["q_pre"], a["h"]), s_q=g["s_q"],
            w_out=outer(g["logits"], a["q"]), b_out=g["logits"].sum((0, 1)),
        )  # fmt: skip
        return None, None, g["q_pre"], g["y_pre"], None, None, g["next_h"], g["next_z"], *gradients


def _forward(
    unimix: float, some_first: list[bool], prepared: Tensor, action_embedding: Tensor, keep: Tensor,
    noise: Tensor, h: Tensor, z: Tensor, w: ScanWeights,
) -> dict[str, Tensor]:  # fmt: skip
    """All that the steps make, each (T, B, ·)."""
    w_h, b_h, w_z, b_z, s_x, w_recur, w_mix, s_y, w_gates, b_gates, w_q, s_q, w_out, b_out = w
    rows, latents = noise.shape[1:3]  # B, S
    blocks = len(w_recur)
    # The update gate's −1 belongs to its bias.
    b_gates = b_gates.view(blocks, 3, -1) - b_gates.new_tensor([0.0, 0.0, 1.0]).view(1, 3, 1)
    kept = _Kept()
    for t in range(len(action_embedding)):
        h_in, z_in = (h * keep[t], z * keep[t]) if some_first[t] else (h, z)
        x_pre = torch.cat([affine(h_in, w_h, b_h), affine(z_in, w_z, b_z)], -1)
        x, x_unit, x_inverse = norm_silu(x_pre.view(rows, 2, -1), s_x)
        x = x.view(rows, -1)  # (B, 2·hidden)
        y_pre = blockwise(h_in, w_recur, affine_add(x, w_mix, action_embedding[t]))
        y, y_unit, y_inverse = norm_silu(y_pre, s_y)  # (B, D)
        gates = blockwise(y, w_gates, b_gates.view(-1)).view(rows, blocks, 3, -1)
        reset, candidate, update = gates.unbind(2)  # (B, g, D/g) each
        reset, update = torch.sigmoid(reset), torch.sigmoid(update)
        value = tanh(reset * candidate)
        h = torch.lerp(h_in.view_as(value), value, update).view(rows, -1)
        q, q_unit, q_inverse = norm_silu(affine_add(h, w_q, prepared[t]), s_q)  # (B, U)
        pure = softmax(affine(q, w_out, b_out).view(rows, latents, -1))  # (B, S, K)
        posterior = (pure * (1.0 - unimix)).add_(unimix / pure.shape[-1])
        if noise.dim() == 4:
            z = (posterior + noise[t]).reshape(rows, -1)
        else:
            z = one_hot(sample_index(posterior, noise[t]), posterior).view(rows, -1)
        kept.add(
            h_in=h_in, z_in=z_in, x_unit=x_unit, x_inverse=x_inverse, x=x, y_unit=y_unit,
            y_inverse=y_inverse, y=y, reset=reset, candidate=candidate, update=update, value=value,
            q_unit=q_unit, q_inverse=q_inverse, q=q, pure=pure, posterior=posterior, h=h, z=z,
        )  # fmt: skip
    return kept.stacked()


def _backward(
    unimix: float, some_first: list[bool], keep: Tensor, w: ScanWeights, a: dict[str, Tensor],
    grad_h: Tensor, grad_z: Tensor, grad_posterior: Tensor,
) -> dict[str, Tensor]:  # fmt: skip
    """Gradients by name: before each non-linearity (T, B, ·), of the scales, of the first h and z."""
    w_h, w_z, s_x, w_recur, w_mix, s_y = w.w_h, w.w_z, w.s_x, w.w_recur, w.w_mix, w.s_y
    w_gates, w_q, s_q, w_out = w.w_gates, w.w_q, w.s_q, w.w_out
    steps, rows = keep.shape[:2]
    blocks, pure, mix = len(w_recur), a["pure"], 1.0 - unimix

    # Derivatives for all steps at once.
    x_slope, x_gain = _slopes(a["x_unit"], a["x_inverse"], s_x)
    y_slope, y_gain = _slopes(a["y_unit"], a["y_inverse"], s_y)
    q_slope, q_gain = _slopes(a["q_unit"], a["q_inverse"], s_q)
    reset, candidate, update, value = a["reset"], a["candidate"], a["update"], a["value"]
    stay = (1.0 - update).view(steps, rows, -1)
    into = update * (1.0 - value.square())  # d h/d (reset·candidate), (T, B, g, D/g)
    change = (value - a["h_in"].view_as(value)) * update * (1.0 - update)
    gate_slopes = torch.stack([into * candidate * reset * (1.0 - reset), into * reset, change], 3)
    straight = (grad_posterior + grad_z.view_as(grad_posterior)).mul_(mix)  # z's gradient is q's

    g = _Kept()
    next_h: Tensor | None = None  # what the step after gives back to h and z
    next_z: Tensor | None = None
    for t in range(steps - 1, -1, -1):
        g_h = grad_h[t] if next_h is None else grad_h[t] + next_h
        g_pure = straight[t] if next_z is None else straight[t].add(next_z.view_as(pure[t]), alpha=mix)
        weighted = g_pure * pure[t]
        g_logits = torch.addcmul(weighted, pure[t], weighted.sum(-1, keepdim=True), value=-1.0)
        g_logits = g_logits.reshape(rows, -1)  # (B, S·K)
        g_q = product(g_logits, w_out)
        g_q_pre = _through(g_q, q_slope[t], a["q_unit"][t])
        g_h = affine_add(g_q_pre, w_q.t(), g_h)
        g_gates = (g_h.view(rows, blocks, 1, -1) * gate_slopes[t]).view(rows, -1)  # (B, 3·D)
        g_y = blockwise(g_gates, w_gates.mT)
        g_y_pre = _through(g_y, y_slope[t], a["y_unit"][t])
        g_x = product(g_y_pre, w_mix).view(rows, 2, -1)
        g_x_pre = _through(g_x, x_slope[t], a["x_unit"][t])
        next_h = blockwise(g_y_pre, w_recur.mT, affine_add(g_x_pre[:, 0], w_h.t(), g_h * stay[t]))
        next_z = product(g_x_pre[:, 1], w_z)
        if some_first[t]:
            next_h, next_z = next_h * keep[t], next_z * keep[t]
        g.add(
            logits=g_logits, q=g_q, q_pre=g_q_pre, gates=g_gates, y=g_y, y_pre=g_y_pre, x=g_x,
            x_pre=g_x_pre,
        )  # fmt: skip
    g_all = g.stacked(reverse=True)
    assert next_h is not None
    assert next_z is not None

    def scale(gradient: Tensor, gain: Tensor) -> Tensor:
        return (gradient * gain).sum((0, 1))

    return g_all | {
        "s_x": scale(g_all["x"], x_gain), "s_y": scale(g_all["y"], y_gain), "s_q": scale(g_all["q"], q_gain),
        "next_h": next_h, "next_z": next_z,
    }  # fmt: skip


class _Kept:
    """Tensors of the same names at every step."""

    def __init__(self) -> None:
        self._lists: dict[str, list[Tensor]] = {}

    def add(self, **tensors: Tensor) -> None:
        for name, tensor in tensors.items():
            self._lists.setdefault(name, []).append(tensor)

    def stacked(self, reverse: bool = False) -> dict[str, Tensor]:
        order = -1 if reverse else 1
        return {name: torch.stack(tensors[::order]) for name, tensors in self._lists.items()}


def norm_silu(x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """SiLU(RMSNorm(x)), x/rms and 1/rms; overwrites x."""
    inverse = torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS)
    unit = x.mul_(inverse)
    return F.silu(unit * scale, inplace=True), unit, inverse


def _block_product(x: Tensor, grad: Tensor, blocks: int) -> Tensor:
    """Gradient (g, in/g, out/g) of the blocks' weight, from x (T, B, in) and grad (T, B, out)."""
    x = x.view(-1, blocks, x.shape[-1] // blocks).transpose(0, 1)  # (g, R, in/g)
    grad = grad.view(-1, blocks, grad.shape[-1] // blocks).transpose(0, 1)
    return torch.bmm(x.mT, grad)


def _slopes(unit: Tensor, inverse: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Of SiLU(scale·unit): the derivative by x but for RMSNorm's projection, and that by scale."""
    scaled = unit * scale
    slope = torch.ops.aten.silu_backward(torch.ones_like(scaled), scaled)
    return (slope * scale).mul_(inverse), slope * unit


def _through(grad: Tensor, slope: Tensor, unit: Tensor) -> Tensor:
    """Back through SiLU and RMSNorm: (I − unit·unitᵀ/n)·(grad·slope), rows of width n."""
    grad = grad * slope
    along = torch.linalg.vecdot(grad, unit).unsqueeze(-1)
    return grad.addcmul_(unit, along, value=-1.0 / unit.shape[-1])

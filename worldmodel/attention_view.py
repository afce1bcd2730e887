"""A look inside a transformer: who attends to whom, how widely, and what each head has learned."""

from typing import NamedTuple

import torch
from torch import Tensor

from qdreamer.worldmodel.attention.decay import decay_bias
from qdreamer.worldmodel.attention.draws import effective_keys, entropy
from qdreamer.worldmodel.attention.rotary import phases
from qdreamer.worldmodel.sequence_models.context import QKV, Visibility
from qdreamer.worldmodel.sequence_models.transformer import Block, Transformer


class LayerView(NamedTuple):
    """One layer; h heads."""

    weights: Tensor  # (B, h, T, T), exact, without noise
    numbers: dict[str, Tensor]  # (h,) each


@torch.no_grad()
def inspect(model: Transformer, stoch: Tensor, action: Tensor, is_first: Tensor) -> list[LayerView]:
    """Observe latents (B, T, S·K) and actions (B, T, A) from the beginning, and say what every layer did.

    Gradient norms are those of the last backward pass, if there was one.
    """
    state = model.initial(len(stoch))
    x = model.stoch_in(stoch * (1.0 - is_first).unsqueeze(-1)) + model.action_embedding(action, is_first)
    visibility = model.visibility(is_first, state.segments)
    turn = phases(torch.arange(x.shape[1], device=x.device), model.head, x.dtype)
    views = []
    for block, past in zip(model.layers(), state.layers, strict=True):
        heads = block.project(x, turn)
        views.append(_view(block, heads, visibility))
        trail = block.attention.append(heads, past)
        x = block.residual(x, block.attention.attend(heads, trail, visibility))
    return views


def _view(block: Block, heads: QKV, visibility: Visibility) -> LayerView:
    kind = block.attention.kind
    mask, bias = visibility.mask, None
    if heads.log_decay is not None:  # no window then
        own = visibility.segments
        mask = ((own.unsqueeze(-1) == own.unsqueeze(1)).tril()).unsqueeze(1)
        bias = decay_bias(heads.log_decay, own)
    weights = kind.weights(heads.q, heads.k, mask, bias)  # (B, h, T, T)
    spread = effective_keys(weights)  # (B, h, T)
    numbers = {"entropy": entropy(weights).mean((0, 2)), "effective_keys": spread.mean((0, 2))}
    numbers |= kind.head_numbers(heads.q, heads.k, heads.v, mask)
    if heads.log_decay is not None:
        numbers["memory_steps"] = (1.0 / -torch.expm1(heads.log_decay)).mean((0, 2))  # 1/(1 − γ)
    if block.qkv.weight.grad is not None:
        per_head = block.qkv.weight.grad.unflatten(0, (3, len(numbers["entropy"]), -1))  # (3, h, d, E)
        numbers["gradient_norm"] = per_head.square().sum((0, 2, 3)).sqrt()
    return LayerView(weights, numbers)

"""Who may attend to whom. Boolean masks say True where a query may see a key, as SDPA's do.

`nn.MultiheadAttention` says the opposite (True = not allowed) and also takes float masks, which are
added to the logits; `from_multihead` translates.
"""

import torch
from torch import Tensor


def segment_ids(is_first: Tensor) -> Tensor:
    """is_first (B, T) → the number of the episode that each step belongs to, (B, T) int64.

    Steps before the first reset have number 0: they continue whatever came before.
    """
    return (is_first > 0.5).long().cumsum(-1)


def causal(steps: int, device: torch.device | None = None, window: int | None = None) -> Tensor:
    """(T, T): key m ≤ query n, and n − m < window if there is one."""
    n = torch.arange(steps, device=device)
    distance = n.unsqueeze(1) - n  # (T, T)
    mask = distance >= 0
    return mask if window is None else mask & (distance < window)


def segment_causal(segments: Tensor, window: int | None = None) -> Tensor:
    """Segment ids (B, T) → (B, 1, T, T): causal ∧ same episode ∧ window."""
    same = segments.unsqueeze(-1) == segments.unsqueeze(-2)  # (B, T, T)
    return (same & causal(segments.shape[-1], segments.device, window)).unsqueeze(1)


def both(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """What both masks allow; None allows everything."""
    if a is None or b is None:
        return b if a is None else a
    return a & b


def plus(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """The sum of two biases; None is zero."""
    if a is None or b is None:
        return b if a is None else a
    return a + b


def allowed(mask: Tensor | None, bias: Tensor | None) -> Tensor | None:
    """The mask of what a mask and a bias allow together: a bias of −∞ forbids."""
    return mask if bias is None else both(mask, bias > -torch.inf)


def as_bias(mask: Tensor | None, bias: Tensor | None) -> Tensor | None:
    """A mask and a bias in one tensor, the form that SDPA takes: boolean if there is no bias."""
    if bias is None:
        return mask
    return bias if mask is None else bias.masked_fill(~mask, -torch.inf)


def from_multihead(
    attn_mask: Tensor | None, key_padding_mask: Tensor | None, heads: int
) -> tuple[Tensor | None, Tensor | None]:
    """Masks of `nn.MultiheadAttention` → (mask, bias), both broadcastable to (B, h, N, M) or None.

    Args:
        attn_mask: (N, M) or (B·h, N, M); boolean with True = not allowed, or float, added.
        key_padding_mask: (B, M), likewise.
    Raises TypeError for a mask that is neither boolean nor floating-point.
    """
    mask: Tensor | None = None
    bias: Tensor | None = None
    for given, name in ((attn_mask, "attn_mask"), (key_padding_mask, "key_padding_mask")):
        if given is None:
            continue
        if name == "key_padding_mask":
            shaped = given[:, None, None]  # (B, 1, 1, M)
        else:
            shaped = given if given.dim() == 2 else given.unflatten(0, (-1, heads))
        if given.dtype == torch.bool:
            mask = both(mask, ~shaped)
        elif given.is_floating_point():
            bias = plus(bias, shaped)
        else:
            raise TypeError(f"{name} must be boolean or floating-point, not {given.dtype}")
    return mask, bias

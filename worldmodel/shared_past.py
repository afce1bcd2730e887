"""What imagined futures share of their rows' pasts, for native/imagine.c: G neighbours ask together.

Softmax-like kinds share the row's keys and values; each future sees those columns that lie in its episode
and its window. `born` shares the recurrent state after the oldest of the G starts (`born_forms.py`); the
few steps between that and the other starts are pairs, of which each has kept what its gates left.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from worldmodel.attention import born_forms
from worldmodel.attention.born import Born
from worldmodel.attention.decay import remains
from worldmodel.attention.kind import Kind
from worldmodel.context import KeyValues, RecurrentTrail

PANEL = 32
"""Columns are rounded up to so many, two vectors of any processor; values to half of it."""


class Starts(NamedTuple):
    """Where N = R·G futures begin: after steps t of rows b, the latest T of the columns of `segments`."""

    b: Tensor  # (R,)
    t: Tensor  # (R, G)
    segments: Tensor  # (B, c + T), episode numbers, ascending
    steps: int  # T


class SharedPast(NamedTuple):
    """One layer's, on C columns; φ features, p numbers for d values. Only `born` has the last four."""

    keys: Tensor  # (B, h, d, C), encoded
    values: Tensor  # (B, h, C, p); of born with a one at place d
    floor: Tensor | None = None  # (B, h, C), added to each overlap
    state: Tensor | None = None  # (R, h, φ, p), of each group
    weight: Tensor | None = None  # (N, h, W): what a future has left of its group's W columns, 0 if unseen
    left: Tensor | None = None  # (N, h, 2): what it has left of the state, and of the columns since the start


class Columns(NamedTuple):
    """Which columns futures look at; all layers share it."""

    first: Tensor  # (R,), of each group; born
    begin: Tensor  # (N,), the first and
    at: Tensor  # (N,), the last that each future sees; softmax-like kinds
    width: int  # W


def share_keys(
    kinds: list[Kind], trails: list[KeyValues], starts: Starts, window: int
) -> tuple[list[SharedPast], Columns]:
    """For kinds that keep keys and values."""
    b, t, segments, steps = starts
    of = segments[b]  # (R, c + T)
    at = t + (segments.shape[1] - steps)  # (R, G)
    begin = torch.searchsorted(of.contiguous(), of.gather(1, at)).maximum(at + 2 - window)
    low, high = int(begin.min()), int(at.max()) + 1
    low = min(low, high - 1)
    pasts = []
    for kind, trail in zip(kinds, trails, strict=True):
        keys = _filled(kind.encode(trail.k[:, :, low:high]).mT, PANEL)
        pasts.append(SharedPast(keys, _values(trail.v[:, :, low:high], keys.shape[-1])))
    return pasts, Columns(torch.zeros_like(b), (begin - low).flatten(), (at - low).flatten(), 0)


def share_states(
    kinds: list[Born], trails: list[RecurrentTrail], starts: Starts
) -> tuple[list[SharedPast], Columns]:
    """For kinds with a recurrent state."""
    b, t, segments, steps = starts
    segments = segments[:, -steps:]
    oldest = t.amin(1)  # (R,)
    distance = int((t - oldest.unsqueeze(1)).max())
    width = rounded(distance, PANEL // 2)  # W
    low, high = int(oldest.min()) + 1, int(t.max()) + 1
    places = oldest.unsqueeze(1) + 1 + torch.arange(width, device=t.device)  # (R, W)
    index = places.clamp(max=steps - 1)
    number = segments[b]  # (R, T)
    now = number.gather(1, t).unsqueeze(-1)  # (R, G, 1)
    seen = (number.gather(1, index).unsqueeze(1) == now) & (
        places.unsqueeze(1) <= t.unsqueeze(-1)
    )  # (R, G, W)
    same = number.gather(1, oldest.unsqueeze(1)).unsqueeze(-1) == now  # (R, G, 1)
    pasts = []
    for kind, trail in zip(kinds, trails, strict=True):
        (_, v, log_decay), before = trail
        k = trail.heads.k
        state = kind.state_at(k, v, b, oldest, segments, log_decay, before if before.numel() else None)
        here = kind.encode(k[:, :, low:high])
        room = rounded(high - low + width, PANEL)  # a group's columns may end after the last
        floor = kind.floor * born_forms.lengths(here).squeeze(-2)
        weight, since = _left(log_decay, b, index, seen.unsqueeze(2), same.unsqueeze(2), kind.heads)
        pasts.append(
            SharedPast(
                _filled(here.mT, PANEL, room),
                _values(born_forms.with_one(v[:, :, low:high]), room),
                _filled(floor, PANEL, room),
                _filled(state, PANEL // 2),
                weight.to(v.dtype).flatten(0, 1).contiguous(),
                torch.stack([since, torch.ones_like(since)], -1).to(v.dtype).flatten(0, 1).contiguous(),
            )
        )
    nothing = torch.zeros_like(t.flatten())
    return pasts, Columns(oldest + 1 - low, nothing, nothing, width)


def _left(
    log_decay: Tensor | None, b: Tensor, index: Tensor, seen: Tensor, same: Tensor, heads: int
) -> tuple[Tensor, Tensor]:
    """What is left of the W columns (R, G, h, W), and of the state before them (R, G, h), at the starts.

    Sums run back from each start and over its own episode only: no bit depends on what came before it.
    """
    rows, group, _, width = seen.shape
    if log_decay is None:
        weight = seen.double().expand(-1, -1, heads, -1)
        return weight, same.double().expand(-1, -1, heads, -1).squeeze(-1)
    columns = log_decay[b].gather(2, index.unsqueeze(1).expand(-1, heads, -1))  # (R, h, W)
    lost = columns.double().unsqueeze(1) * seen  # (R, G, h, W)
    total = F.pad(lost, (0, 1)).flip(-1).cumsum(-1).flip(-1)  # (R, G, h, W + 1), Σ from each column on
    weight = remains(total[..., 1:], torch.double) * seen
    return weight, remains(total[..., 0], torch.double) * same.squeeze(-1)


def _values(v: Tensor, columns: int) -> Tensor:
    """(B, h, c, ·) → (B, h, C, p)."""
    wide = rounded(v.shape[-1], PANEL // 2)
    return F.pad(v, (0, wide - v.shape[-1], 0, columns - v.shape[2])).contiguous()


def _filled(x: Tensor, multiple: int, least: int = 0) -> Tensor:
    """x with zeros to the next multiple along the last axis."""
    return F.pad(x, (0, rounded(max(x.shape[-1], least), multiple) - x.shape[-1])).contiguous()


def rounded(size: int, multiple: int) -> int:
    """Up."""
    return -(-size // multiple) * multiple

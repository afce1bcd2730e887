"""Causal `born` attention in chunks and step by step; `Born.attend` is the parallel form.

    o_n = Σ_m κ_nm v_m / Σ_m κ_nm      κ_nm = (|⟨φ(q_n)|φ(k_m)⟩|² + f) Π_{m<j≤n} γ_j

over the keys m ≤ n of the same episode. The overlap is a product of φ features (`encodings.py`), so

    S_n = γ_n S_{n−1} + φ(k_n) [v_n, 1]ᵀ      [numerator, denominator] = read(φ(q_n), S_n)

is the recurrent form: S (B, h, φ, dv + 1) is all that is kept of the past; its last column belongs to
the denominator. Chunked (as Yang et al. 2024, GLA, §4): pairs within chunks of C steps, states between
chunks, so time and memory are linear in N.

Queries and keys are unit vectors here (`Born.encode`).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from qdreamer.worldmodel.attention.decay import remains, running_total
from qdreamer.worldmodel.attention.encodings import Encoding
from qdreamer.worldmodel.attention.kernel import segment_causal

CHUNKS_AT_ONCE = 128
"""So many chunks are treated together; a loop over such blocks keeps the form linear in N."""


class Steps(NamedTuple):
    """N steps of the past, or of what becomes the past."""

    k: Tensor  # (B, h, N, d), unit vectors
    v: Tensor  # (B, h, N, dv)
    segments: Tensor | None = None  # (B, N), episode numbers; a state before the first step has 0, as None is
    valid: Tensor | None = None  # (B, N) boolean: False for keys that nobody may see
    log_decay: Tensor | None = None  # (B, h, N), log γ

    def part(self, start: int, end: int) -> "Steps":
        rest = [None if x is None else x[..., start:end] for x in self[2:]]
        return Steps(self.k[:, :, start:end], self.v[:, :, start:end], *rest)


def chunked(
    q: Tensor, steps: Steps, encoding: Encoding, state: Tensor | None = None, chunk: int | None = None
) -> Tensor:
    """Queries (B, h, N, d) over the steps up to each: outputs (B, h, N, dv).

    Args:
        state: (B, h, φ, dv + 1), what went before; episode 0 continues it.
        chunk: C, by default as fits N and φ. One chunk with nothing before it is the parallel form.
    """
    length, size = q.shape[-2], encoding.size
    if chunk is None:
        # A state costs each step about as much as φ more pairs: fewer than C + φ steps are one chunk.
        chunk = 32 if size <= 64 else 64 if size <= 256 else 128  # fastest as measured at d = 8, 16 and 64
        chunk = length if length <= chunk + size else chunk
    outs = []
    number: Tensor | None = None  # the episode that `state` belongs to
    block = chunk * CHUNKS_AT_ONCE
    for start in range(0, length, block):
        chunks = _cut(steps.part(start, start + block), number, chunk)
        states = None
        if length > chunk or state is not None:
            states = _carry(chunks, encoding, state)
            state, number = states[:, :, -1], chunks.segments[:, -1, -1]
        outs.append(_attend(q[:, :, start : start + block], chunks, states, encoding))
    return outs[0] if len(outs) == 1 else torch.cat(outs, -2)


def state_at(steps: Steps, encoding: Encoding, b: Tensor, t: Tensor, state: Tensor | None = None) -> Tensor:
    """The states after steps t (n,) of rows b (n,): (n, h, φ, dv + 1), to go on with `step`.

    Only those and one state for each chunk are made, not all N. Chunks see each other in pairs: of a long row
    there are about √N.
    """
    chunk = max(16, math.isqrt(steps.k.shape[-2]))
    chunks = _cut(steps, None, chunk)
    g, now = t // chunk, t % chunk
    k, w, before = chunks.k[b, :, g], chunks.w[b, :, g], _carry(chunks, encoding, state)[b, :, g]
    number = chunks.segments[b, g]  # (n, C)
    seen = torch.arange(chunk, device=t.device) <= now.unsqueeze(-1)
    seen = seen & (number == number.gather(-1, now.unsqueeze(-1)))
    weight = seen.to(w.dtype).unsqueeze(1)  # (n, 1, C)
    if chunks.total is not None:
        total = chunks.total[b, :, g]  # (n, h, C)
        here = total.gather(-1, now[:, None, None].expand(-1, total.shape[1], 1))
        weight = weight * remains(here - total, w.dtype)
    since = chunks.from_start[b, :, g]  # (n, h or 1, C)
    since = since.gather(-1, now[:, None, None].expand(-1, since.shape[1], 1))
    before = before * since.unsqueeze(-1)
    return torch.baddbmm(
        before.flatten(0, 1), encoding.features(k.mT).flatten(0, 1), (w * weight.unsqueeze(-1)).flatten(0, 1)
    ).view_as(before)


def with_one(v: Tensor) -> Tensor:
    """[v, 1]: numerator and denominator are summed alike."""
    return F.pad(v, (0, 1), value=1.0)


def ratio(sums: Tensor) -> Tensor:
    """[numerator, denominator] (…, dv + 1) → outputs (…, dv); zero where nothing was allowed."""
    denominator = sums[..., -1:]
    return sums[..., :-1] / denominator.where(denominator > 0, 1.0)


def lengths(k: Tensor) -> Tensor:
    """|k|² as a row, (…, 1, M): one, or zero for the zero vector, which is no state."""
    return k.square().sum(-1).unsqueeze(-2)


class _Chunks(NamedTuple):
    """G chunks of C steps; the last is filled up with steps of weight zero."""

    k: Tensor  # (B, h, G, C, d)
    w: Tensor  # (B, h, G, C, dv + 1): [v, 1], zero where invalid
    segments: Tensor  # (B, G, C)
    total: Tensor | None  # (B, h, G, C) float64: Σ log γ from the chunk's first step on
    to_end: Tensor  # (B, h or 1, G, C): what the chunk's last step still has of each step
    from_start: Tensor  # (B, h or 1, G, C): what each step still has of the state before the chunk
    across: Tensor  # (…, G + 1, G + 1): what each boundary still has of the states at those before it


def _cut(steps: Steps, number: Tensor | None, chunk: int) -> _Chunks:
    """Steps → chunks; `number` (B,) is the episode that the state before them belongs to, else 0."""
    missing = -steps.k.shape[-2] % chunk
    w = with_one(steps.v)
    if steps.valid is not None:
        w = w * steps.valid[:, None, :, None].to(w.dtype)
    k, w = (F.pad(x, (0, 0, 0, missing)).unflatten(-2, (-1, chunk)) for x in (steps.k, w))
    segments = steps.segments
    if segments is None:
        segments = torch.zeros(w.shape[0], steps.k.shape[2], dtype=torch.int64, device=w.device)
    segments = torch.cat([segments, segments[:, -1:].expand(-1, missing)], -1).unflatten(-1, (-1, chunk))
    first = segments.new_zeros(w.shape[0]) if number is None else number
    ends = torch.cat([first.unsqueeze(-1), segments[..., -1]], -1)  # (B, G + 1)
    to_end = (segments == ends[:, 1:, None]).unsqueeze(1).to(w.dtype)
    from_start = (segments == ends[:, :-1, None]).unsqueeze(1).to(w.dtype)
    across = segment_causal(ends).to(w.dtype)
    total = None
    if steps.log_decay is not None:
        log_decay = F.pad(steps.log_decay, (0, missing)).unflatten(-1, (-1, chunk))
        total = running_total(log_decay, segments.unsqueeze(1))
        from_start = from_start * total.exp().to(w.dtype)
        to_end = to_end * remains(total[..., -1:] - total, w.dtype)
        # Only chunks within one episode lie between boundaries that see each other.
        boundary = running_total(F.pad(total[..., -1], (1, 0)), ends.unsqueeze(1))
        across = across * remains(boundary.unsqueeze(-1) - boundary.unsqueeze(-2), w.dtype)
    return _Chunks(k, w, segments, total, to_end, from_start, across)


def _carry(chunks: _Chunks, encoding: Encoding, state: Tensor | None) -> Tensor:
    """States before each chunk and after the last, (B, h, G + 1, φ, dv + 1)."""
    made = encoding.features(chunks.k.mT) @ (chunks.w * chunks.to_end.unsqueeze(-1))  # (B, h, G, φ, dv + 1)
    before = torch.zeros_like(made[:, :, :1]) if state is None else state.unsqueeze(2)
    made = torch.cat([before, made], 2)
    return (chunks.across @ made.flatten(-2)).view_as(made)


def _attend(q: Tensor, chunks: _Chunks, states: Tensor | None, encoding: Encoding) -> Tensor:
    """Outputs (B, h, N, dv) of the queries (B, h, N, d) of these chunks."""
    length, chunk = q.shape[-2], chunks.k.shape[-2]
    q = F.pad(q, (0, 0, 0, -length % chunk)).unflatten(-2, (-1, chunk))  # (B, h, G, C, d)
    weight = segment_causal(chunks.segments).to(q.dtype)  # (B, 1, G, C, C)
    if chunks.total is not None:
        weight = weight * remains(chunks.total.unsqueeze(-1) - chunks.total.unsqueeze(-2), q.dtype)
    kernel = encoding.overlaps(q, chunks.k) + encoding.floor * lengths(chunks.k)
    sums = (kernel * weight) @ chunks.w  # (B, h, G, C, dv + 1)
    if states is not None:
        before = encoding.read(encoding.features(q.mT), states[:, :, :-1])
        sums = sums + before * chunks.from_start.unsqueeze(-1)
    return ratio(sums).flatten(2, 3)[:, :, :length]

"""What a layer of attention keeps of the past, and how imagined futures go on from it.

Two forms with one face. `KeyValueAttention` keeps the keys and values of the last steps: imagined
futures share those of their row and append their own. `RecurrentAttention`, for kinds that are linear
in time, keeps one state of constant size. `mixed_attention.py` runs two kinds side by side.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from qdreamer import native
from qdreamer.worldmodel.attention.born import Born
from qdreamer.worldmodel.attention.decay import running_total
from qdreamer.worldmodel.attention.kernel import AttentionKernel


class QKV(NamedTuple):
    """What one layer asks and offers at some steps; q and k carry their phases."""

    qk: Tensor  # (B, 2·h, T, d): queries, then keys
    v: Tensor  # (B, h, T, d)
    log_decay: Tensor | None  # (B, h, T)

    @property
    def q(self) -> Tensor:
        return self.qk.chunk(2, 1)[0]  # (B, h, T, d)

    @property
    def k(self) -> Tensor:
        return self.qk.chunk(2, 1)[1]


@dataclass(frozen=True)
class Visibility:
    """Who sees whom among T steps of B rows and the c steps before them; all layers share it."""

    segments: Tensor  # (B, c + T), episode numbers: 0 goes on with the past, −1 is seen by nobody
    steps: int  # T
    window: int  # steps that a step sees at most, itself included

    @cached_property
    def mask(self) -> Tensor:
        """(B, 1, T, c + T), True = attend. Made when it is first wanted: kernels do without."""
        columns = self.segments.shape[1]
        m = torch.arange(columns, device=self.segments.device)
        distance = m[columns - self.steps :].unsqueeze(-1) - m  # (T, c + T)
        near = (distance >= 0) & (distance < self.window)
        own = self.segments[:, columns - self.steps :]
        return (near & (own.unsqueeze(-1) == self.segments.unsqueeze(1))).unsqueeze(1)


class Future(NamedTuple):
    """Where N = R·G imagined futures are: G neighbours share the past of a row; all layers share this."""

    step: int  # imagined steps before this one
    context: int  # C, steps of the past
    bias: Tensor  # (R, 1, G, C + G·(step + 1)): 0 for keys that a future sees, −∞ for others


class CausalAttention(Protocol):
    """One layer's attention over time. Pasts, trails and memories are pytrees of tensors."""

    @property
    def kind(self) -> AttentionKernel:
        """What attends."""
        ...

    def empty(self, batch: int, like: Tensor) -> Any:
        """The past before anything happened."""
        ...

    def append(self, heads: QKV, past: Any) -> Any:
        """The trail that T steps leave behind a past."""
        ...

    def attend(self, heads: QKV, trail: Any, visibility: Visibility) -> Tensor:
        """All T steps at once → outputs (B, h, T, d)."""
        ...

    def truncate(self, trail: Any, visibility: Visibility, window: int) -> Any:
        """The past of the step after the last one."""
        ...

    def select(self, trail: Any, visibility: Visibility, b: Tensor, t: Tensor) -> Any:
        """Memories to imagine from, after steps t (R, G) of rows b (R,)."""
        ...

    def imagine(self, heads: QKV, memory: Any, future: Future) -> tuple[Tensor, Any]:
        """One step of N futures: heads (N, h, 1, d) → (N, h, d), memory; the memory is used up."""
        ...

    def schedule(self, update: int) -> None:
        """Prepare for update number `update`, for what follows a schedule."""
        ...

    def native_form(self) -> native.AttentionForm | None:
        """Return the form in which kernels in C can learn this, or None."""
        ...

    def native_past(self, trail: Any, visibility: Visibility) -> native.Past | None:
        """Return what kernels in C can imagine from, or None."""
        ...


class KeyValues(NamedTuple):
    k: Tensor  # (B, h, c, d)
    v: Tensor  # (B, h, c, d)


class KeyValueAttention(nn.Module):
    """For every kind.

    Args:
        window: how many steps back, itself included, a step sees.
    """

    def __init__(self, kind: AttentionKernel, window: int) -> None:
        super().__init__()
        self.kind: AttentionKernel = kind
        self.window = window

    def empty(self, batch: int, like: Tensor) -> KeyValues:
        nothing = like.new_zeros(batch, self.kind.heads, 0, self.kind.width)
        return KeyValues(nothing, nothing)

    def append(self, heads: QKV, past: KeyValues) -> KeyValues:
        if not past.k.shape[2]:
            return KeyValues(heads.k, heads.v)
        return KeyValues(torch.cat([past.k, heads.k], 2), torch.cat([past.v, heads.v], 2))

    def attend(self, heads: QKV, trail: KeyValues, visibility: Visibility) -> Tensor:
        self.kind.train(torch.is_grad_enabled())  # noise is for learning
        return self.kind.attend(heads.q, trail.k, trail.v, visibility.mask)

    def truncate(self, trail: KeyValues, visibility: Visibility, window: int) -> KeyValues:
        return KeyValues(*(x[:, :, -window:] for x in trail))

    def select(self, trail: KeyValues, visibility: Visibility, b: Tensor, t: Tensor) -> KeyValues:
        past = KeyValues(self.kind.encode(trail.k)[b], trail.v[b])
        return KeyValues(*(_with_room(x, SLOTS * t.shape[1]) for x in past))

    def imagine(self, heads: QKV, memory: KeyValues, future: Future) -> tuple[Tensor, KeyValues]:
        group = future.bias.shape[2]
        used = future.bias.shape[3]
        if memory.k.shape[2] < used:
            memory = KeyValues(*(_with_room(x, x.shape[2] - future.context) for x in memory))
        encoded = self.kind.encode(heads.qk.squeeze(2)).unflatten(0, (-1, group)).transpose(1, 2)
        q, k = encoded.chunk(2, 1)  # (R, h, G, d)
        memory.k[:, :, used - group : used] = k
        memory.v[:, :, used - group : used] = heads.v.squeeze(2).unflatten(0, (-1, group)).transpose(1, 2)
        out = self.kind.attend_encoded(q, memory.k[:, :, :used], memory.v[:, :, :used], future.bias)
        return out.transpose(1, 2).flatten(0, 1), memory

    def schedule(self, update: int) -> None:
        """Nothing here follows one."""

    def native_form(self) -> native.AttentionForm | None:
        return self.kind.native_form(learning=True)

    def native_past(self, trail: KeyValues, visibility: Visibility) -> native.Past | None:
        form = self.kind.native_form(learning=False)
        if form is None or form.floor is not None:  # C knows no window of overlaps
            return None
        return native.Past(form, trail.k, trail.v, None)


SLOTS = 16
"""Imagined steps for which there is room at first; when it is full it doubles."""


def _with_room(x: Tensor, keys: int) -> Tensor:
    """x (R, h, C, d) with room for so many more keys."""
    room = x.new_empty(*x.shape[:2], x.shape[2] + keys, x.shape[3])
    room[:, :, : x.shape[2]] = x
    return room


class RecurrentTrail(NamedTuple):
    heads: QKV
    before: Tensor  # (B, h, φ, d + 1), or nothing if there was no past


class RecurrentAttention(nn.Module):
    """For kinds that are linear in time: no window, the past fades by decay."""

    def __init__(self, kind: Born) -> None:
        super().__init__()
        self.kind = kind

    def empty(self, batch: int, like: Tensor) -> Tensor:
        return like.new_zeros(batch, 0)

    def append(self, heads: QKV, past: Tensor) -> RecurrentTrail:
        return RecurrentTrail(heads, past)

    def attend(self, heads: QKV, trail: RecurrentTrail, visibility: Visibility) -> Tensor:
        q, k, v, log_decay = heads.q, heads.k, heads.v, heads.log_decay
        segments = visibility.segments[:, -q.shape[2] :]
        self.kind.train(torch.is_grad_enabled())
        state = trail.before if trail.before.numel() else None
        return self.kind.attend_causal(q, k, v, segments, None, log_decay, state=state)

    def truncate(self, trail: RecurrentTrail, visibility: Visibility, window: int) -> Tensor:
        rows, _, steps = trail.heads.v.shape[:3]
        b = torch.arange(rows, device=trail.heads.v.device)
        return self.select(trail, visibility, b, torch.full_like(b, steps - 1).unsqueeze(1))

    def select(self, trail: RecurrentTrail, visibility: Visibility, b: Tensor, t: Tensor) -> Tensor:
        (_, v, log_decay), before = trail
        k = trail.heads.k
        segments = visibility.segments[:, -k.shape[2] :]
        state = before if before.numel() else None
        b = b.repeat_interleave(t.shape[1])
        return self.kind.state_at(k, v, b, t.flatten(), segments, log_decay, state)

    def imagine(self, heads: QKV, memory: Tensor, future: Future) -> tuple[Tensor, Tensor]:
        q, k, v = (x.squeeze(2) for x in (heads.q, heads.k, heads.v))
        log_decay = None if heads.log_decay is None else heads.log_decay.squeeze(2)
        return self.kind.step(q, k, v, memory, log_decay)

    def schedule(self, update: int) -> None:
        """Nothing here follows one."""

    def native_form(self) -> None:
        """C does not learn with a recurrent state."""

    def native_past(self, trail: RecurrentTrail, visibility: Visibility) -> native.Past | None:
        heads, before = trail
        form = self.kind.native_form(learning=False)
        if form is None or before.numel():
            return None
        decay = heads.log_decay
        if decay is not None:
            decay = running_total(decay, visibility.segments.unsqueeze(1))  # (B, h, T)
        return native.Past(form, heads.k, heads.v, decay)

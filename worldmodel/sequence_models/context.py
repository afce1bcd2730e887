"""What a layer of attention keeps of the past, and how imagined futures go on from it.

Two forms with one face. `KeyValueAttention` keeps the keys and values of the last steps: imagined
futures share those of their row and append their own. `RecurrentAttention`, for kinds that are linear
in time, keeps one state of constant size. `mixed_attention.py` runs two kinds side by side.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from qdreamer import native
from qdreamer.worldmodel.attention.decay import running_total
from qdreamer.worldmodel.attention.kernel import AttentionKernel, RecurrentKernel


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

    def split(self, steps: int) -> tuple["QKV", "QKV"]:
        """Return those of the first steps, and the others."""
        parts = (self.qk, 2), (self.v, 2), (self.log_decay, -1)
        first = (None if x is None else x.narrow(dim, 0, steps) for x, dim in parts)
        rest = (None if x is None else x.narrow(dim, steps, x.shape[dim] - steps) for x, dim in parts)
        return QKV(*first), QKV(*rest)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Visibility:
    """Who sees whom among T steps of B rows and the c steps before them; all layers share it."""

    segments: Tensor  # (B, c + T), episode numbers: 0 goes on with the past, −1 is seen by nobody
    steps: int  # T
    window: int  # steps that a step sees at most, itself included
    _made: list[Tensor] = field(default_factory=list, repr=False, compare=False)

    @property
    def mask(self) -> Tensor:
        """(B, 1, T, c + T), True = attend. Made when it is first wanted: kernels do without."""
        if not self._made:  # not cached_property: its lock is nothing that torch.compile knows
            self._made.append(self._mask())
        return self._made[0]

    def _mask(self) -> Tensor:
        columns = self.segments.shape[1]
        m = torch.arange(columns, device=self.segments.device)
        distance = m[columns - self.steps :].unsqueeze(-1) - m  # (T, c + T)
        near = (distance >= 0) & (distance < self.window)
        own = self.segments[:, columns - self.steps :]
        return (near & (own.unsqueeze(-1) == self.segments.unsqueeze(1))).unsqueeze(1)

    @property
    def mask_before(self) -> Tensor:
        """(B, 1, T, c + T): the same without the step itself."""
        return self.mask.tril(self.segments.shape[1] - self.steps - 1)

    @property
    def follows(self) -> Tensor:
        """(B, T), whether a step has another of its episode before it."""
        first = self.segments.new_full((self.segments.shape[0], 1), -1)
        return torch.cat([first, self.segments], 1).diff(dim=1)[:, -self.steps :] == 0


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

    def recall(self, heads: QKV, asking: QKV, trail: Any, visibility: Visibility) -> Tensor:
        """`attend` for the last T of some steps, then for T queries that see the steps before theirs only.

        Returns (B, h, 2·T, d).
        """
        ...

    @property
    def reach(self) -> int:
        """How many steps of the past it must know the episode of, at least one."""
        ...

    def truncate(self, trail: Any, visibility: Visibility) -> Any:
        """The past of the step after the last one."""
        ...

    def resume(self, past: Any) -> Any:
        """Memories to imagine from, one future for each row of a past."""
        ...

    def select(self, trail: Any, visibility: Visibility, b: Tensor, t: Tensor) -> Any:
        """Memories to imagine from, after steps t (R, G) of rows b (R,)."""
        ...

    def imagine(self, heads: QKV, memory: Any, future: Future) -> tuple[Tensor, Any]:
        """One step of N futures: heads (N, h, 1, d) → (N, h, d), memory; the memory is used up."""
        ...

    def ask(self, heads: QKV, memory: Any, future: Future) -> Tensor:
        """What N futures see of the steps before this one: heads (N, h, 1, d) → (N, h, d)."""
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
    """Keys and values of the last steps, for every kind.

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

    def recall(self, heads: QKV, asking: QKV, trail: KeyValues, visibility: Visibility) -> Tensor:
        self.kind.train(torch.is_grad_enabled())
        mask = torch.cat([visibility.mask, visibility.mask_before], 2)  # (B, 1, 2·T, c + T)
        q = torch.cat([heads.q[:, :, -visibility.steps :], asking.q], 2)
        return self.kind.attend(q, trail.k, trail.v, mask)

    @property
    def reach(self) -> int:
        return self.window - 1

    def truncate(self, trail: KeyValues, visibility: Visibility) -> KeyValues:
        return KeyValues(*(x[:, :, -self.reach :] for x in trail))

    def select(self, trail: KeyValues, visibility: Visibility, b: Tensor, t: Tensor) -> KeyValues:
        return self._with_room(trail.k[b], trail.v[b], t.shape[1])

    def resume(self, past: KeyValues) -> KeyValues:
        return self._with_room(past.k, past.v, 1)

    def _with_room(self, k: Tensor, v: Tensor, group: int) -> KeyValues:
        return KeyValues(*(_with_room(x, SLOTS * group) for x in (self.kind.encode(k), v)))

    def imagine(self, heads: QKV, memory: KeyValues, future: Future) -> tuple[Tensor, KeyValues]:
        group, used = future.bias.shape[2:]
        if memory.k.shape[2] < used:
            memory = KeyValues(*(_with_room(x, x.shape[2] - future.context) for x in memory))
        q, k = self._grouped(self.kind.encode(heads.qk), group).chunk(2, 1)  # (R, h, G, d)
        memory.k[:, :, used - group : used] = k
        memory.v[:, :, used - group : used] = self._grouped(heads.v, group)
        return self._ask(q, memory, future.bias), memory

    def ask(self, heads: QKV, memory: KeyValues, future: Future) -> Tensor:
        group = future.bias.shape[2]
        q = self._grouped(self.kind.encode(heads.q), group)
        return self._ask(q, memory, future.bias[..., :-group])

    def _ask(self, q: Tensor, memory: KeyValues, bias: Tensor) -> Tensor:
        k, v = (x[:, :, : bias.shape[3]] for x in memory)
        return self.kind.attend_encoded(q, k, v, bias).transpose(1, 2).flatten(0, 1)

    @staticmethod
    def _grouped(x: Tensor, group: int) -> Tensor:
        """(N, ·, 1, d) → (R, ·, G, d)."""
        return x.squeeze(2).unflatten(0, (-1, group)).transpose(1, 2)

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
    """Return x (R, h, C, d) with room for so many more keys."""
    room = x.new_empty(*x.shape[:2], x.shape[2] + keys, x.shape[3])
    room[:, :, : x.shape[2]] = x
    return room


class RecurrentTrail(NamedTuple):
    heads: QKV
    before: Tensor  # the kind's state, or nothing if there was no past


class RecurrentAttention(nn.Module):
    """For kinds that are linear in time: no window, the past fades by decay."""

    def __init__(self, kind: RecurrentKernel) -> None:
        super().__init__()
        self.kind: RecurrentKernel = kind

    def empty(self, batch: int, like: Tensor) -> Tensor:
        return like.new_zeros(batch, 0)

    def append(self, heads: QKV, past: Tensor) -> RecurrentTrail:
        return RecurrentTrail(heads, past)

    def attend(self, heads: QKV, trail: RecurrentTrail, visibility: Visibility) -> Tensor:
        q, k, v, log_decay = heads.q, heads.k, heads.v, heads.log_decay
        segments = visibility.segments[:, -q.shape[2] :]
        self.kind.train(torch.is_grad_enabled())
        return self.kind.attend_causal(q, k, v, segments, None, log_decay, state=self._before(trail))

    def recall(self, heads: QKV, asking: QKV, trail: RecurrentTrail, visibility: Visibility) -> Tensor:
        segments = visibility.segments[:, -heads.v.shape[2] :]
        self.kind.train(torch.is_grad_enabled())
        before = self._before(trail)
        return self.kind.recall(heads.q, asking.q, heads.k, heads.v, segments, heads.log_decay, before)

    @property
    def reach(self) -> int:
        return 1

    def truncate(self, trail: RecurrentTrail, visibility: Visibility) -> Tensor:
        b = torch.arange(trail.heads.v.shape[0], device=trail.heads.v.device)
        return self.select(trail, visibility, b, torch.full_like(b, visibility.steps - 1).unsqueeze(1))

    def select(self, trail: RecurrentTrail, visibility: Visibility, b: Tensor, t: Tensor) -> Tensor:
        _, v, log_decay = trail.heads
        segments, stored = visibility.segments[:, -v.shape[2] :], v.shape[2] - visibility.steps
        b, t = b.repeat_interleave(t.shape[1]), t.flatten() + stored
        return self.kind.state_at(trail.heads.k, v, b, t, segments, log_decay, self._before(trail), stored)

    @staticmethod
    def _before(trail: RecurrentTrail) -> Tensor | None:
        return trail.before if trail.before.numel() else None

    def resume(self, past: Tensor) -> Tensor:
        return past if past.numel() else self.kind.initial(len(past), self.kind.width, past)

    def imagine(self, heads: QKV, memory: Tensor, future: Future) -> tuple[Tensor, Tensor]:
        q, k, v = (x.squeeze(2) for x in (heads.q, heads.k, heads.v))
        log_decay = None if heads.log_decay is None else heads.log_decay.squeeze(2)
        return self.kind.step(q, k, v, memory, log_decay)

    def ask(self, heads: QKV, memory: Tensor, future: Future) -> Tensor:
        return self.kind.read(heads.q.squeeze(2), memory)

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

"""What a layer of attention keeps of the past, and how imagined futures go on from it.

Two forms with one face. `KeyValueAttention` keeps the keys and values of the last steps: imagined
futures share those of their row and append their own. `RecurrentAttention`, for kinds that are linear
in time, keeps one state of constant size. `MixedAttention` runs two kinds side by side (a curriculum).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from qdreamer.quantum.config import QuantumConfig
from qdreamer.worldmodel.attention.born import Born
from qdreamer.worldmodel.attention.config import AttentionConfig, make_kind
from qdreamer.worldmodel.attention.curriculum import mix_at
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


SLOTS = 16
"""RolloutState steps for which there is room at first; when it is full it doubles."""


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


class MixedAttention(nn.Module):
    """o = (1 − mix)·exact + mix·approximate. At the ends only one of them is computed.

    Both keep their past in observed episodes, so that the mix may change at any time.
    """

    def __init__(
        self, exact: KeyValueAttention, approximate: CausalAttention, mix_at: Callable[[int], float]
    ) -> None:
        super().__init__()
        self.exact, self.approximate = exact, approximate
        self.mix_at = mix_at
        self.schedule(0)

    @property
    def kind(self) -> AttentionKernel:
        return self.approximate.kind

    def schedule(self, update: int) -> None:
        """Set the mix for update number `update`."""
        self.mix = self.mix_at(update)

    def get_extra_state(self) -> float:
        return self.mix

    def set_extra_state(self, state: float) -> None:
        self.mix = state

    def empty(self, batch: int, like: Tensor) -> tuple[Any, ...]:
        return self.exact.empty(batch, like), self.approximate.empty(batch, like)

    def append(self, heads: QKV, past: tuple[Any, ...]) -> tuple[Any, ...]:
        return self.exact.append(heads, past[0]), self.approximate.append(heads, past[1])

    def attend(self, heads: QKV, trail: tuple[Any, ...], visibility: Visibility) -> Tensor:
        outs = [part.attend(heads, trail[i], visibility) for i, part in self.active()]
        return self._mixed(outs)

    def truncate(self, trail: tuple[Any, ...], visibility: Visibility, window: int) -> tuple[Any, ...]:
        return self.exact.truncate(trail[0], visibility, window), self.approximate.truncate(
            trail[1], visibility, window
        )

    def select(self, trail: tuple[Any, ...], visibility: Visibility, b: Tensor, t: Tensor) -> tuple[Any, ...]:
        return tuple(part.select(trail[i], visibility, b, t) for i, part in self.active())

    def imagine(self, heads: QKV, memory: tuple[Any, ...], future: Future) -> tuple[Tensor, tuple[Any, ...]]:
        pairs = [
            part.imagine(heads, part_memory, future)
            for (_, part), part_memory in zip(self.active(), memory, strict=True)
        ]
        outs, memories = zip(*pairs, strict=True)
        return self._mixed(list(outs)), memories

    def _mixed(self, outs: list[Tensor]) -> Tensor:
        return outs[0] if len(outs) == 1 else torch.lerp(outs[0], outs[1], self.mix)

    def active(self) -> list[tuple[int, CausalAttention]]:
        """Those that the mix asks for, with their place in pasts and trails."""
        parts: list[tuple[int, CausalAttention]] = [(0, self.exact), (1, self.approximate)]
        return parts[int(self.mix == 1.0) : 1 + int(self.mix > 0.0)]


def make_attention(
    config: AttentionConfig, heads: int, head: int, window: int, quantum: QuantumConfig | None
) -> CausalAttention:
    """One layer's attention with h heads of d features, which looks at most `window` steps back."""
    kind = make_kind(config.name, heads, head, **config.arguments(quantum))
    attention: CausalAttention
    if isinstance(kind, Born) and kind.linear:
        attention = RecurrentAttention(kind)
    else:
        attention = KeyValueAttention(kind, window)
    if (schedule := config.schedule) is None:
        return attention
    return MixedAttention(
        KeyValueAttention(make_kind("softmax", heads, head), window),
        attention,
        lambda update: mix_at(
            update, schedule.start, schedule.length, schedule.ramp, schedule.first, schedule.last
        ),
    )

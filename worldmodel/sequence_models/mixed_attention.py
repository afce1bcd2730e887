"""Two kinds of attention side by side: a curriculum from an exact to an approximate one.

Both keep their past in observed episodes, so that the mix may change at any time.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from qdreamer import native
from qdreamer.quantum.config import QuantumConfig
from qdreamer.worldmodel.attention.config import AttentionConfig, make_kind
from qdreamer.worldmodel.attention.curriculum import mix_at
from qdreamer.worldmodel.attention.kernel import AttentionKernel, RecurrentKernel
from qdreamer.worldmodel.sequence_models.context import (
    QKV,
    CausalAttention,
    Future,
    KeyValueAttention,
    RecurrentAttention,
    Visibility,
)


class MixedAttention(nn.Module):
    """o = (1 − mix)·exact + mix·approximate. At the ends only one of them is computed."""

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

    def recall(self, heads: QKV, asking: QKV, trail: tuple[Any, ...], visibility: Visibility) -> Tensor:
        return self._mixed([part.recall(heads, asking, trail[i], visibility) for i, part in self.active()])

    @property
    def reach(self) -> int:
        return max(self.exact.reach, self.approximate.reach)

    def truncate(self, trail: tuple[Any, ...], visibility: Visibility) -> tuple[Any, ...]:
        parts = (self.exact, self.approximate)
        return tuple(part.truncate(kept, visibility) for part, kept in zip(parts, trail, strict=True))

    def select(self, trail: tuple[Any, ...], visibility: Visibility, b: Tensor, t: Tensor) -> tuple[Any, ...]:
        return tuple(part.select(trail[i], visibility, b, t) for i, part in self.active())

    def resume(self, past: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(part.resume(past[i]) for i, part in self.active())

    def imagine(self, heads: QKV, memory: tuple[Any, ...], future: Future) -> tuple[Tensor, tuple[Any, ...]]:
        pairs = [
            part.imagine(heads, part_memory, future)
            for (_, part), part_memory in zip(self.active(), memory, strict=True)
        ]
        outs, memories = zip(*pairs, strict=True)
        return self._mixed(list(outs)), memories

    def ask(self, heads: QKV, memory: tuple[Any, ...], future: Future) -> Tensor:
        parts = zip(self.active(), memory, strict=True)
        return self._mixed([part.ask(heads, part_memory, future) for (_, part), part_memory in parts])

    def _mixed(self, outs: list[Tensor]) -> Tensor:
        return outs[0] if len(outs) == 1 else torch.lerp(outs[0], outs[1], self.mix)

    def native_form(self) -> None:
        """C does not learn with two kinds."""

    def native_past(self, trail: tuple[Any, ...], visibility: Visibility) -> native.Past | None:
        parts = self.active()
        return None if len(parts) > 1 else parts[0][1].native_past(trail[parts[0][0]], visibility)

    def active(self) -> list[tuple[int, CausalAttention]]:
        """Those that the mix asks for, with their place in pasts and trails."""
        parts: list[tuple[int, CausalAttention]] = [(0, self.exact), (1, self.approximate)]
        return parts[int(self.mix == 1.0) : 1 + int(self.mix > 0.0)]


def make_attention(
    config: AttentionConfig, heads: int, head: int, window: int, quantum: QuantumConfig | None
) -> CausalAttention:
    """One layer's attention with h heads of d features, which looks at most `window` steps back."""
    kind = make_kind(config.name, heads, head, **config.arguments(quantum))
    attention: CausalAttention = (
        RecurrentAttention(cast(RecurrentKernel, kind)) if kind.linear else KeyValueAttention(kind, window)
    )
    if (schedule := config.schedule) is None:
        return attention
    return MixedAttention(
        KeyValueAttention(make_kind("softmax", heads, head), window),
        attention,
        lambda update: mix_at(
            update, schedule.start, schedule.length, schedule.ramp, schedule.first, schedule.last
        ),
    )

"""What an update hands back to replay: priorities and fresh latents, without stopping the device.

On a CPU they are there at once. Copies from a GPU are started as soon as they are computed and taken
in with the next update, by when they have arrived: the learner waits for nothing but their own
computation, and the backward pass goes on meanwhile.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from qdreamer.agents.replay import Replay, Starts


class PendingWrite(NamedTuple):
    starts: Starts
    priority: Tensor  # (B,)
    latents: dict[str, Tensor]  # (B, T, ·)
    arrived: Callable[[], None]  # waits


class AsyncReplayWriter:
    """`give` during an update, `take_in` before the next draw and before a checkpoint.

    `deferred` puts taking in off until the next update.
    """

    def __init__(self, replay: Replay, deferred: bool) -> None:
        self._replay, self._deferred = replay, deferred
        self._parcel: PendingWrite | None = None

    def submit(self, starts: Starts, priority: Tensor, latents: dict[str, Tensor]) -> None:
        """Priorities (B,) and latents (B, T, ·) of the sequences at `starts`."""
        self.flush()
        cuda = priority.is_cuda
        copies = {name: _to_host(tensor) for name, tensor in latents.items()}
        parcel = PendingWrite(starts, _to_host(priority), copies, _event() if cuda else _nothing)
        self._parcel = parcel
        if not self._deferred:
            self.flush()

    def flush(self) -> None:
        """Tell the replay, if there is something to tell."""
        if self._parcel is None:
            return
        parcel, self._parcel = self._parcel, None
        parcel.arrived()
        self._replay.write(parcel.starts, {name: t.numpy() for name, t in parcel.latents.items()})
        self._replay.update(parcel.starts, np.asarray(parcel.priority.numpy(), np.float32))


def _to_host(tensor: Tensor) -> Tensor:
    if not tensor.is_cuda:
        return tensor
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)


def _event() -> Callable[[], None]:
    event = torch.cuda.Event()
    event.record()
    return event.synchronize


def _nothing() -> None:
    """It is there."""

"""Fresh latents and priorities on their way from an update back into replay, without stopping the device.

On a CPU they are there at once. Copies from a GPU are started as soon as they are computed and written into
the replay with the next update, by when they have arrived: the learner waits for nothing but their own
computation, and the backward pass goes on meanwhile.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from qdreamer.agents.replay import Replay, Starts


class AsyncReplayWriter:
    """`submit` during an update, `flush` before the next draw and before a checkpoint.

    With `deferred` nothing is written before `flush`; else `submit` writes at once.
    """

    def __init__(self, replay: Replay, deferred: bool) -> None:
        self._replay, self._deferred = replay, deferred
        self._pending: Callable[[], None] | None = None

    def submit(self, starts: Starts, priority: Tensor | None, latents: dict[str, Tensor]) -> None:
        """Write priorities (B,), if there are any, and latents (B, T, ·) of the sequences at `starts`."""
        self.flush()
        copies = {name: _to_host(tensor) for name, tensor in latents.items()}
        errors = None if priority is None else _to_host(priority)
        wait = _event() if self._deferred else None

        def write() -> None:
            if wait is not None:
                wait()
            self._replay.write(starts, {name: copy.numpy() for name, copy in copies.items()})
            if errors is not None:
                self._replay.update(starts, np.asarray(errors.numpy(), np.float32))

        self._pending = write
        if not self._deferred:
            self.flush()

    def flush(self) -> None:
        """Write what is pending."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending()


def _to_host(tensor: Tensor) -> Tensor:
    if not tensor.is_cuda:
        return tensor
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)


def _event() -> Callable[[], None] | None:
    """A wait for the copies that were started before this call, where a GPU makes them."""
    if not torch.cuda.is_available():
        return None
    event = torch.cuda.Event()
    event.record()
    return event.synchronize

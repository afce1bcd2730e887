"""Which stored rows were ever replayed."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


class Coverage:
    """One flag per row of the ring (N, size), and how many stored rows have it."""

    def __init__(self, num_envs: int, size: int) -> None:
        self._seen = np.zeros((num_envs, size), np.bool_)
        self._count = 0

    def forget(self, env: NDArray[np.int64], slot: NDArray[np.int64]) -> None:
        """New rows have come into these slots (n,), each named once."""
        self._count -= int(self._seen[env, slot].sum())
        self._seen[env, slot] = False

    def mark(self, env: NDArray[np.int64], slot: NDArray[np.int64]) -> None:
        """Rows (B, T) were replayed; overlapping sequences may name some twice."""
        flat = np.unique((env * self._seen.shape[1] + slot).ravel())
        seen = self._seen.reshape(-1)
        self._count += len(flat) - int(seen[flat].sum())
        seen[flat] = True

    def share(self, rows: int) -> float:
        """Of `rows` stored rows, those that were replayed at least once."""
        return self._count / max(rows, 1)

    def state_dict(self, filled: int) -> dict[str, Any]:
        return {"seen": torch.from_numpy(self._seen[:, :filled].copy())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        stored = state["seen"].numpy()
        self._seen[:, : stored.shape[1]] = stored
        self._count = int(self._seen.sum())

"""What a part of a run needs to send circuits somewhere."""

import sys
from dataclasses import dataclass
from pathlib import Path

from qdreamer.quantum.backends.factory import open_backend
from qdreamer.quantum.circuits.backend import Backend
from qdreamer.quantum.config import QuantumConfig
from qdreamer.quantum.jobs.budget import Budget
from qdreamer.quantum.jobs.job_queue import JobQueue
from qdreamer.quantum.jobs.pending_job import Limits


@dataclass(frozen=True)
class CircuitAccess:
    """The quantum section of a run's config, the run's directory, and the budget that its queues share."""

    config: QuantumConfig
    directory: Path
    budget: Budget

    def backend(self, owner: str) -> Backend:
        """The configured backend, or with a warning the simulator; `owner` is the part that asks."""
        return open_backend(self.config, lambda text: _warn(owner, text))

    def queue(self, owner: str, backend: Backend, wait: bool) -> JobQueue:
        """A queue to the backend, whose jobs outlive this process in a folder called as the owner."""
        kept = None
        if not self.config.in_process:
            kept = self.directory / owner
            kept.mkdir(parents=True, exist_ok=True)
        limits = Limits.from_config(self.config)
        return JobQueue(backend, limits, lambda text: _warn(owner, text), kept, wait, self.budget)


def _warn(owner: str, text: str) -> None:
    print(f"warning: {owner}: {text}", file=sys.stderr)

"""How the parts of a run have their circuits run, and what that costs."""

import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread

from qdreamer.quantum.backends.factory import open_backend
from qdreamer.quantum.circuits.backend import Backend, Task, run
from qdreamer.quantum.config import QuantumConfig
from qdreamer.quantum.jobs.budget import CircuitBudget
from qdreamer.quantum.jobs.job_queue import JobQueue, Limits


@dataclass(frozen=True)
class CircuitAccess:
    """The quantum section of a run's config, the run's directory, and the budget that its parts share."""

    config: QuantumConfig
    directory: Path
    budget: CircuitBudget = field(default_factory=CircuitBudget)
    queues: list[JobQueue] = field(default_factory=list)  # that the parts have opened

    @classmethod
    def of(cls, config: QuantumConfig, directory: Path) -> "CircuitAccess":
        """Make one with the budget that the config sets."""
        return cls(config, directory, CircuitBudget(config.budget_shots, config.budget_seconds))

    def backend(self, owner: str) -> Backend:
        """Open the configured backend, or with a warning the simulator; `owner` is the part that asks."""
        return open_backend(self.config, lambda text: _warn(owner, text))

    def queue(self, owner: str, backend: Backend) -> JobQueue:
        """Open a queue to the backend, whose jobs outlive this process in a folder called as the owner."""
        kept = self.directory / owner
        kept.mkdir(parents=True, exist_ok=True)
        limits = Limits(self.config.timeout, self.config.retries)
        queue = JobQueue(backend, limits, lambda text: _warn(owner, text), kept, self.budget)
        self.queues.append(queue)
        return queue

    def close(self) -> None:
        """End the run: jobs of a service go on, others are given up."""
        for queue in self.queues:
            queue.close()


def warm_up(backend: Backend, task: Task, seconds: float) -> None:
    """Run one shot before there is a hurry, but not on services, where a job has its price.

    Qiskit's transpiler holds Python's lock for seconds, and in a job's thread it would stop whoever goes on
    meanwhile. What goes wrong, or takes longer, is left to the jobs, whose queue knows what to do.
    """
    if backend.remote:
        return

    def work() -> None:
        with suppress(Exception):
            run(backend, [task], 1, 0)

    thread = Thread(target=work, daemon=True, name="quantum warm-up")
    thread.start()
    thread.join(seconds)


def _warn(owner: str, text: str) -> None:
    print(f"warning: {owner}: {text}", file=sys.stderr)

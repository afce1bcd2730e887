"""A search by jobs that nobody waits for."""

import math
from dataclasses import asdict
from typing import Any

import torch

from qdreamer.agents.optim.direction_search import SearchResult, evaluate, named
from qdreamer.quantum.circuits.backend import Usage
from qdreamer.quantum.circuits.sampling import new_seed
from qdreamer.quantum.jobs.job_queue import Counts, JobQueue, JobResult
from qdreamer.quantum.qaoa.ising import Ising
from qdreamer.quantum.qaoa.solver import CircuitSolver


class QueueSearch:
    """QAOA by jobs that nobody waits for. A result that is older than `patience` updates is dropped.

    The problem travels with its job, so a run that was restarted can use what it asked for before.
    With `wait` each search does wait for its job, or until the simulator has done it instead: at most
    the queue's time-out for each attempt.
    """

    def __init__(
        self,
        solver: CircuitSolver,
        queue: JobQueue,
        shots: int,
        patience: int,
        facts: dict[str, float] | None = None,
        wait: bool = False,
    ) -> None:
        self._solver, self._queue, self._shots, self._patience = solver, queue, shots, patience
        self._wait = wait
        self._arrived: list[JobResult] = []
        self._facts = facts or {}  # of the circuit
        self.late = 0  # results that came, but too late

    @property
    def busy(self) -> bool:
        return self._queue.pending > 0

    def begin(self, ising: Ising, base: float, update: int, generator: torch.Generator) -> None:
        task = self._solver.task(ising, generator)
        problem = {"h": ising.h.tolist(), "J": ising.J.tolist(), "constant": ising.constant}
        tag = {"update": update, "base": base, **problem}
        self._queue.submit([task], self._shots, new_seed(generator), tag)
        if self._wait:
            self._arrived += self._queue.wait(math.inf)

    def poll(self, update: int) -> SearchResult | None:
        outcomes, self._arrived = [*self._arrived, *self._queue.poll()], []
        found = [result for outcome in outcomes if (result := self._accept(outcome, update)) is not None]
        return found[-1] if found else None

    def _accept(self, outcome: JobResult, update: int) -> SearchResult | None:
        if outcome.measurement is None:  # lost; the queue has counted it
            return None
        tag = outcome.tag
        age = update - tag["update"]
        # Less than 0: the run went back to a checkpoint from before the search. Another size: another run's.
        same_size = outcome.measurement.bits[0].shape[-1] == len(tag["h"])
        if not (0 <= age <= self._patience and same_size):
            self.late += 1
            return None
        h, couplings = (torch.tensor(tag[key], dtype=torch.float64) for key in ("h", "J"))
        ising = Ising(h, couplings, tag["constant"])
        return evaluate(ising, self._solver.finish(ising, outcome.measurement), tag["base"], age)

    def metrics(self) -> dict[str, float]:
        return named({"late": self.late, **self._facts, **self._queue.metrics()})

    def state_dict(self) -> dict[str, Any]:
        """Return counts. Jobs under way are kept by the queue where they outlive the process."""
        return {"late": self.late, "counts": asdict(self._queue.counts), "usage": asdict(self._queue.usage)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.late = state["late"]
        self._queue.go_on_from(Counts(**state["counts"]), Usage(**state["usage"]))

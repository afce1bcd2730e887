"""From an Ising problem to multipliers: a solver at once, or circuits through the job queue."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from qdreamer.quantum.circuits.backend import Usage
from qdreamer.quantum.jobs.job_queue import JobQueue
from qdreamer.quantum.jobs.pending_job import Counts, Outcome
from qdreamer.quantum.jobs.spending import Spending
from qdreamer.quantum.qaoa.ising import Ising, energies
from qdreamer.quantum.qaoa.solvers import CircuitSolver, Solution, Solver, approximation_ratio, new_seed

MAX_RATIO = 16  # qubits up to which every search is compared with brute force


@dataclass(frozen=True, eq=False)
class SearchResult:
    """The end of a search: bits (n,) with the energy m(s), beside the m(1) of the step as proposed."""

    bits: Tensor
    energy: float
    base: float
    ratio: float | None  # approximation ratio of the bits, where brute force can tell
    mean_ratio: float | None  # of the mean energy of all samples
    age: int  # updates since the problem was built


class DirectionSearch(Protocol):
    """At most one problem at a time."""

    @property
    def busy(self) -> bool:
        """Whether a problem is under way."""
        ...

    def begin(self, ising: Ising, base: float, update: int, generator: torch.Generator) -> None:
        """Start on a problem; never waits for a service. `base` is m(1)."""
        ...

    def poll(self, update: int) -> SearchResult | None:
        """What ended since the last call, if it is not too late."""
        ...

    def metrics(self) -> dict[str, float]:
        """Counts and costs of circuits."""
        ...

    def spending(self) -> Spending:
        """What circuits have cost in the whole run."""
        ...

    def close(self) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class SolverSearch:
    """A solver that answers at once."""

    busy = False

    def __init__(self, solver: Solver, shots: int) -> None:
        self._solver, self._shots = solver, shots
        self._found: SearchResult | None = None

    def begin(self, ising: Ising, base: float, update: int, generator: torch.Generator) -> None:
        self._found = evaluate(ising, self._solver.solve(ising, self._shots, generator), base, 0)

    def poll(self, update: int) -> SearchResult | None:
        found, self._found = self._found, None
        return found

    def metrics(self) -> dict[str, float]:
        return {}

    def spending(self) -> Spending:
        return Spending()

    def close(self) -> None:
        """Nothing is under way."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """There is none."""


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
        self._arrived: list[Outcome] = []
        self._facts = {f"optimizer/{name}": value for name, value in (facts or {}).items()}  # of the circuit
        self.late = 0  # results that came, but too late

    @property
    def busy(self) -> bool:
        return self._queue.pending > 0

    def begin(self, ising: Ising, base: float, update: int, generator: torch.Generator) -> None:
        task = self._solver.task(ising, generator)
        tag = {"update": update, "base": base, "h": ising.h.tolist(), "constant": ising.constant}
        tag["J"] = ising.J.tolist()
        self._queue.submit([task], self._shots, new_seed(generator), tag)
        if self._wait:
            self._arrived += self._queue.wait(math.inf)

    def poll(self, update: int) -> SearchResult | None:
        found = None
        outcomes, self._arrived = [*self._arrived, *self._queue.poll()], []
        for outcome in outcomes:
            found = self._accept(outcome, update) or found
        return found

    def _accept(self, outcome: Outcome, update: int) -> SearchResult | None:
        if outcome.measurement is None:  # lost; the queue has counted it
            return None
        tag = outcome.tag
        age = update - tag["update"]
        # Less than 0: the run went back to a checkpoint from before the search.
        if not 0 <= age <= self._patience:
            self.late += 1
            return None
        ising = Ising(torch.tensor(tag["h"]).double(), torch.tensor(tag["J"]).double(), tag["constant"])
        if outcome.measurement.bits[0].shape[-1] != ising.qubits:  # another run's
            self.late += 1
            return None
        return evaluate(ising, self._solver.finish(ising, outcome.measurement), tag["base"], age)

    def metrics(self) -> dict[str, float]:
        out = {"optimizer/late": float(self.late), **self._facts}
        for name, value in self._queue.metrics().items():
            clock = "seconds" in name  # what depends on the clock is logged under time/
            out[f"time/optimizer_{name}" if clock else f"optimizer/{name}"] = value
        return out

    def spending(self) -> Spending:
        return self._queue.spending()

    def close(self) -> None:
        self._queue.close()

    def state_dict(self) -> dict[str, Any]:
        """Counts. Jobs under way are kept by the queue where they outlive the process."""
        return {"late": self.late, "counts": asdict(self._queue.counts), "usage": asdict(self._queue.usage)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        queue = self._queue
        lost = queue.counts.lost  # found out when the queue was made
        self.late, queue.counts = state["late"], Counts(**state["counts"])
        queue.counts.lost += lost
        queue.go_on_from(Usage(**state["usage"]))


def evaluate(ising: Ising, solution: Solution, base: float, age: int) -> SearchResult:
    """A solution beside the best that there is."""
    ratio = mean = None
    if ising.qubits <= MAX_RATIO:
        table = energies(ising, torch.float64)
        ratio, mean = approximation_ratio(table, solution.energy), approximation_ratio(table, solution.mean)
    return SearchResult(solution.bits, solution.energy, base, ratio, mean, age)

"""From an Ising problem to the bits that name a step: at once, by a queue's jobs, or on one of several ranks.

And a log of what came of it.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from qdreamer.agents.distributed.ranks import SingleProcess
from qdreamer.quantum.circuits.backend import Usage
from qdreamer.quantum.circuits.sampling import new_seed
from qdreamer.quantum.jobs.job_queue import Counts, JobQueue, JobResult
from qdreamer.quantum.qaoa.ising import Ising, Solution, approximation_ratio, energies
from qdreamer.quantum.qaoa.solver import CircuitSolver, Solver

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
    """At most one problem at a time. Searches that run circuits have an account in the run's budget."""

    @property
    def busy(self) -> bool:
        """True while a problem is under way."""

    def begin(self, ising: Ising, base: float, update: int, generator: torch.Generator) -> None:
        """Start on a problem; never waits for a service. `base` is m(1)."""

    def poll(self, update: int) -> SearchResult | None:
        """Return what ended since the last call, if it is not too late."""

    def metrics(self) -> dict[str, float]:
        """Return counts and costs of circuits."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class SolverSearch:
    """A solver that answers at once, in this process.

    Args:
        facts: of its circuits, for the log; none for a solver that runs no circuits.
    """

    busy = False
    remote, in_flight_shots = False, 0  # as an account of the run's budget

    def __init__(self, solver: Solver, shots: int, facts: dict[str, float] | None = None) -> None:
        self._solver, self._shots, self._facts = solver, shots, facts
        self._found: SearchResult | None = None
        self.usage = Usage()  # of the whole run

    def begin(self, ising: Ising, base: float, update: int, generator: torch.Generator) -> None:
        solution = self._solver.solve(ising, self._shots, generator)
        self.usage += solution.usage
        self._found = evaluate(ising, solution, base, 0)

    def poll(self, update: int) -> SearchResult | None:
        found, self._found = self._found, None
        return found

    def metrics(self) -> dict[str, float]:
        if self._facts is None:
            return {}
        costs = {name: getattr(self.usage, name) for name in ("circuits", "shots", "seconds")}
        return named({**self._facts, **costs})

    def state_dict(self) -> dict[str, Any]:
        return asdict(self.usage)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.usage = Usage(**state)


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


class SharedSearch:
    """A `DirectionSearch` on all ranks: rank 0's result is theirs, and only rank 0 has jobs and their costs.

    Args:
        make: the search, opened on rank 0 only.
    """

    def __init__(self, ranks: SingleProcess, make: Callable[[], DirectionSearch]) -> None:
        self._ranks = ranks
        self._search = make() if ranks.rank == 0 else None
        self._waiting = True  # jobs of an earlier session may come back

    @property
    def busy(self) -> bool:
        return self._waiting

    def begin(self, ising: Ising, base: float, update: int, generator: torch.Generator) -> None:
        """Start on rank 0; the other ranks' generators keep up with rank 0's."""
        own = torch.Generator().manual_seed(new_seed(generator))
        if self._search is not None:
            self._search.begin(ising, base, update, own)
        self._waiting = True

    def poll(self, update: int) -> SearchResult | None:
        if not self._waiting:
            return None

        def poll() -> tuple[SearchResult | None, bool]:
            assert self._search is not None
            return self._search.poll(update), self._search.busy

        found, self._waiting = self._ranks.from_rank_0(poll)
        return found

    def metrics(self) -> dict[str, float]:
        return {} if self._search is None else self._search.metrics()

    def state_dict(self) -> dict[str, Any]:
        return {} if self._search is None else self._search.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load rank 0's search; the other ranks have none."""
        if self._search is not None:
            self._search.load_state_dict(state)


def named(figures: dict[str, float]) -> dict[str, float]:
    """Return figures of a search under their names in the log: what depends on the clock under time/."""
    return {
        f"time/optimizer_{name}" if "seconds" in name else f"optimizer/{name}": float(value)
        for name, value in figures.items()
    }


def evaluate(ising: Ising, solution: Solution, base: float, age: int) -> SearchResult:
    """Compare a solution with the best that there is."""
    ratio = mean = None
    if ising.qubits <= MAX_RATIO:
        table = energies(ising, torch.float64)
        ratio, mean = approximation_ratio(table, solution.energy), approximation_ratio(table, solution.mean)
    return SearchResult(solution.bits, solution.energy, base, ratio, mean, age)


@dataclass
class SearchLog:
    """Sums over tried steps, and counts, for one line of the log."""

    sums: dict[str, float] = field(default_factory=dict)
    tried: int = 0
    searches: int = 0  # problems that were built
    failed: int = 0  # because the model was not finite
    off_diagonal: float = 0.0  # sum over the problems: see `quadratic_model.off_diagonal`
    seconds: float = 0.0  # in updates that searched, tried or reused; the base's step included

    def add(
        self, found: SearchResult, multipliers: dict[str, float], base: float, chosen: float, accepted: bool
    ) -> None:
        """Add a step that was tried: decreases of the loss on fresh data by the base's step and by it."""
        values = {
            "accepted": float(accepted),
            "decrease_base": base,
            "decrease_chosen": chosen,
            "decrease_taken": chosen if accepted else base,
            "predicted_base": -found.base,
            "predicted_chosen": -found.energy,
            "age": float(found.age),
        }
        if found.ratio is not None and found.mean_ratio is not None:
            values |= {"approximation_ratio": found.ratio, "approximation_ratio_mean": found.mean_ratio}
        values |= {f"multiplier/{block}": s for block, s in multipliers.items()}
        self.sums |= {name: self.sums.get(name, 0.0) + value for name, value in values.items()}
        self.tried += 1

    def means(self) -> dict[str, float]:
        """Return means over the steps that were tried, and counts."""
        out = {"optimizer/searches": float(self.searches), "optimizer/failed": float(self.failed)}
        if self.searches:
            out["optimizer/off_diagonal"] = self.off_diagonal / self.searches
        out |= {f"optimizer/{name}": value / self.tried for name, value in self.sums.items()}
        return out | {"optimizer/tried": float(self.tried), "time/search": self.seconds}

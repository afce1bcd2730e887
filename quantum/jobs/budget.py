"""What the circuits of a whole run have cost and may cost, whichever of its parts runs them."""

from dataclasses import asdict, dataclass, field
from typing import Protocol

from qdreamer.quantum.circuits.backend import Usage
from qdreamer.quantum.config import QuantumConfig


@dataclass(frozen=True)
class Spending:
    """Circuits and shots of all jobs, and seconds of execution on simulators and on a device."""

    circuits: int = 0
    shots: int = 0
    simulator_seconds: float = 0.0
    qpu_seconds: float = 0.0

    def __add__(self, other: "Spending") -> "Spending":
        mine, others = asdict(self), asdict(other)
        return Spending(**{key: mine[key] + others[key] for key in mine})


class Account(Protocol):
    """A part of the run that has circuits run."""

    @property
    def usage(self) -> Usage: ...

    @property
    def remote(self) -> bool:
        """True for a device, False for a simulator."""
        ...

    @property
    def in_flight_shots(self) -> int:
        """Shots of the jobs under way."""
        ...


@dataclass(eq=False)
class Budget:
    """Limits that all accounts of a run share. None: no limit."""

    shots: int | None = None
    seconds: float | None = None  # of execution
    accounts: list[Account] = field(default_factory=list)

    @classmethod
    def from_config(cls, config: QuantumConfig) -> "Budget":
        return cls(config.budget_shots, config.budget_seconds)

    @property
    def limited(self) -> bool:
        return self.shots is not None or self.seconds is not None

    def used_up(self) -> str | None:
        """Why a job that is among those under way must not run; None if it may."""
        spent = self._spent()
        if (
            self.shots is not None
            and spent.shots + sum(a.in_flight_shots for a in self.accounts) > self.shots
        ):
            return f"the budget of quantum.budget_shots={self.shots} is used up"
        if self.seconds is not None and spent.seconds >= self.seconds:
            return f"the budget of quantum.budget_seconds={self.seconds:g} is used up"
        return None

    def left(self) -> dict[str, float]:
        """For a log."""
        spent, out = self._spent(), {}
        if self.shots is not None:
            out["budget_shots_left"] = float(max(0, self.shots - spent.shots))
        if self.seconds is not None:
            out["budget_seconds_left"] = max(0.0, self.seconds - spent.seconds)
        return out

    def spending(self) -> Spending:
        """What circuits have cost in the whole run, split by where they ran."""
        total = Spending()
        for account in self.accounts:
            usage = account.usage
            simulator, qpu = (0.0, usage.seconds) if account.remote else (usage.seconds, 0.0)
            total += Spending(usage.circuits, usage.shots, simulator, qpu)
        return total

    def _spent(self) -> Usage:
        return sum((account.usage for account in self.accounts), Usage())

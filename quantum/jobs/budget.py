"""What the circuits of a whole run have cost and may cost, whichever of its parts runs them."""

from dataclasses import dataclass, field
from typing import Protocol

from qdreamer.quantum.circuits.backend import Usage


@dataclass(frozen=True)
class Spending:
    """Circuits and shots of all jobs, and seconds of execution on simulators and on a device."""

    circuits: int = 0
    shots: int = 0
    simulator_seconds: float = 0.0
    qpu_seconds: float = 0.0


class Account(Protocol):
    """A part of the run that has circuits run."""

    @property
    def usage(self) -> Usage: ...

    @property
    def remote(self) -> bool:
        """True for a device, False for a simulator."""

    @property
    def in_flight_shots(self) -> int:
        """Shots of the jobs under way."""


@dataclass(eq=False)
class CircuitBudget:
    """Limits that all accounts of a run share. None: no limit."""

    shots: int | None = None
    seconds: float | None = None  # of execution
    accounts: list[Account] = field(default_factory=list)

    @property
    def limited(self) -> bool:
        return self.shots is not None or self.seconds is not None

    def used_up(self) -> str | None:
        """Return why a job that is among those under way must not run; None if it may."""
        spent = self._spent()
        in_flight = sum(account.in_flight_shots for account in self.accounts)
        if self.shots is not None and spent.shots + in_flight > self.shots:
            return f"the budget of quantum.budget_shots={self.shots} is used up"
        if self.seconds is not None and spent.seconds >= self.seconds:
            return f"the budget of quantum.budget_seconds={self.seconds:g} is used up"
        return None

    def left(self) -> dict[str, float]:
        """Return what is left of each limit, for a log."""
        spent, out = self._spent(), {}
        if self.shots is not None:
            out["budget_shots_left"] = float(max(0, self.shots - spent.shots))
        if self.seconds is not None:
            out["budget_seconds_left"] = max(0.0, self.seconds - spent.seconds)
        return out

    def spending(self) -> Spending:
        """Return what circuits have cost in the whole run, split by where they ran."""
        spent = self._spent()
        simulated = sum((account.usage.seconds for account in self.accounts if not account.remote), 0.0)
        on_device = sum((account.usage.seconds for account in self.accounts if account.remote), 0.0)
        return Spending(spent.circuits, spent.shots, simulated, on_device)

    def _spent(self) -> Usage:
        return sum((account.usage for account in self.accounts), Usage())

"""What the jobs of a whole run may cost, whichever queues send them."""

from dataclasses import dataclass, field
from typing import Protocol

from qdreamer.quantum.circuits.backend import Usage
from qdreamer.quantum.config import QuantumConfig


class Account(Protocol):
    """One spender's side of it: what was spent, and the shots under way."""

    usage: Usage

    @property
    def in_flight_shots(self) -> int: ...


@dataclass(eq=False)
class Budget:
    """Limits that all queues of a run share; each keeps its own account. None: no limit."""

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

    def _spent(self) -> Usage:
        return sum((account.usage for account in self.accounts), Usage())

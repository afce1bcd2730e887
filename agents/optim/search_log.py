"""What searches for directions did since the last line of the log."""

from typing import Any

from qdreamer.agents.optim.direction_search import SearchResult


class SearchLog:
    """Sums over tried steps, and counts."""

    def __init__(self, blocks: list[str]) -> None:
        self._blocks = blocks
        self._sums: dict[str, float] = {}
        self._tried = 0
        self.searches = 0  # problems that were built
        self.failed = 0  # because the model was not finite
        self.seconds = 0.0  # in updates that searched, tried or reused; the base's step included

    def add(
        self, found: SearchResult, multipliers: list[float], base: float, chosen: float, accepted: bool
    ) -> None:
        """A step that was tried: decreases of the loss on fresh data by the base's step and by it."""
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
        values |= {f"multiplier/{name}": s for name, s in zip(self._blocks, multipliers, strict=True)}
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._tried += 1

    def read(self) -> dict[str, float]:
        """Means over the steps that were tried since the last `read`, and counts."""
        out = {"optimizer/searches": float(self.searches), "optimizer/failed": float(self.failed)}
        out |= {f"optimizer/{name}": value / self._tried for name, value in self._sums.items()}
        out |= {"optimizer/tried": float(self._tried), "time/search": self.seconds}
        self._sums, self._tried, self.searches, self.failed, self.seconds = {}, 0, 0, 0, 0.0
        return out

    def state_dict(self) -> dict[str, Any]:
        return {
            "sums": dict(self._sums),
            "tried": self._tried,
            "searches": self.searches,
            "failed": self.failed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._sums, self._tried = dict(state["sums"]), state["tried"]
        self.searches, self.failed = state["searches"], state["failed"]

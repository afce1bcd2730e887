"""A search that rank 0 makes for all ranks, so that they take the same step."""

from collections.abc import Callable
from typing import Any

import torch

from qdreamer.agents.distributed.ranks import SingleProcess
from qdreamer.agents.optim.direction_search import DirectionSearch, SearchResult
from qdreamer.quantum.circuits.sampling import new_seed
from qdreamer.quantum.qaoa.ising import Ising


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

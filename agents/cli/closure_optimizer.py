"""The hybrid optimizer for any module of torch, whose loss is a closure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from qdreamer.agents.cli.functions import make_solver
from qdreamer.agents.optim import hybrid_optimizer
from qdreamer.agents.optim.direction_search import SolverSearch
from qdreamer.agents.optim.optimizer import Objective
from qdreamer.agents.optim.parameter_groups import ParameterGroup, by_module
from qdreamer.agents.optim.quadratic_model import Levels


class ClosureObjective:
    """Losses around the present weights, all by the same closure, but for what a step is checked on."""

    def __init__(self, closure: Objective, check: Objective) -> None:
        self._closure, self._check = closure, check

    def full_batch(self) -> Objective:
        return self._closure

    def sub_batch(self, rows: int) -> None:
        return None

    def fresh(self, rows: int, seed: int) -> tuple[Tensor, Objective]:
        return self._check().detach(), self._check


class HybridOptimizer(hybrid_optimizer.HybridOptimizer):
    """Any optimizer, and every so many steps a search for a better direction than it proposes.

    Args:
        base: the optimizer; it owns all parameters.
        blocks: what is searched over: names and their parameters, or a module, which is cut along its
            submodules into as many blocks as `qubits` allow. The blocks' parameters alone are searched over.
        every: steps from search to search. levels: what the multipliers of the blocks' steps may be.
        solver, backend, shots, layers, settings: as of `solve_qubo`. seed: of its draws.

    Raises ValueError for blocks that overlap or hold what the base does not, ConfigError for unknown words.
    """

    def __init__(
        self,
        base: Optimizer,
        blocks: nn.Module | Mapping[str, Iterable[nn.Parameter]],
        every: int = 50,
        levels: Sequence[float] = (0.5, 1.0, 1.5, 2.0),
        solver: str = "qaoa",
        backend: str = "statevector",
        shots: int = 1024,
        layers: int = 3,
        qubits: int = 16,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        choices = Levels.of(levels)
        if isinstance(blocks, nn.Module):
            groups = by_module(blocks, qubits // choices.bits)
        else:
            groups = [ParameterGroup(name, list(parameters)) for name, parameters in blocks.items()]
        search = SolverSearch(make_solver(solver, backend, layers, choices.bits, **settings), shots)
        super().__init__(base, groups, search, choices, every, seed=seed)

    def step(  # type: ignore[override]
        self, closure: Callable[[], Tensor], check: Callable[[], Tensor] | None = None
    ) -> float:
        """Take one step: gradients are cleared and computed here; returns the loss before it.

        Args:
            closure: returns the loss (), differentiable, without calling backward. It is called again where a
                search is due, so it must give the same loss for the same weights: the same batch, no dropout.
            check: the loss on other data, on which a found step must be no worse than the base's.
        """
        self.base.zero_grad()
        with torch.enable_grad():
            loss = closure()
            loss.backward()
        super().step(landscape=lambda: ClosureObjective(closure, check or closure))
        return float(loss.detach())

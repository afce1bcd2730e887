"""An optimizer that periodically looks for a better direction than its base proposes.

Every K updates the base optimizer's step d is cut into blocks, a quadratic model m(s) of the loss along
them (`quadratic_model`) becomes an Ising problem over levels of their multipliers s, and a solver
(`direction_search`: QAOA on any backend, or a classical control) names a step Ds. It is taken if the loss on
fresh data is at most that after the step as proposed; else d is taken, to the bit.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from time import perf_counter
from typing import Any, Self

import torch
from torch import Tensor
from torch.optim import Optimizer

from qdreamer.agents.distributed.ranks import SINGLE_PROCESS
from qdreamer.agents.dreamer import Dreamer
from qdreamer.agents.optim.direction_search import DirectionSearch, SearchLog, SearchResult, SharedSearch
from qdreamer.agents.optim.hybrid_config import HybridConfig, make_search
from qdreamer.agents.optim.laprop import LaProp
from qdreamer.agents.optim.optimizer import OPTIMIZERS, Landscape, LocalObjective, WrappedOptimizer
from qdreamer.agents.optim.parameter_groups import PARTITIONS, ParameterGroup
from qdreamer.agents.optim.quadratic_model import (
    Levels,
    Quadratic,
    RunningCurvature,
    curvature_rows,
    off_diagonal,
    slopes,
)
from qdreamer.agents.optim.steering import Steering, by_block
from qdreamer.agents.randomness import SEARCH, stream_seed
from qdreamer.native.products import in_float32
from qdreamer.quantum.circuits.sampling import new_seed
from qdreamer.quantum.jobs.access import CircuitAccess


@OPTIMIZERS.register("hybrid", HybridConfig)
class HybridOptimizer(WrappedOptimizer):
    """Wraps any optimizer. Without a landscape, `step` is the base's own.

    Clipping, momentum, warm-up and learning rates are the base's, and its state goes on as if every
    step had been taken as proposed. Parameters outside the blocks always take the base's step.

    Args:
        base: owns all parameters. blocks: the M blocks that are searched over, disjoint.
        search: solves the problems. levels: what multipliers may be. every: K, in updates.
        epsilon: length of the differences of gradients, in proposed steps.
        reuse: apply the last accepted multipliers between searches as well, unchecked.
        seed: of solvers and of fresh data.
        slice, fresh: sequences that curvature is measured on, and that a step is checked on.
        differences: blocks whose curvature a search measures, in turn; None for all.
        steering: of the learning rates of the base's groups that `steering.by_block` cut; None for none.
        average: mean of a small float64 tensor over all processes that train the same weights, so that
            all of them come to the same decisions.
    """

    def __init__(
        self,
        base: Optimizer,
        blocks: Sequence[ParameterGroup],
        search: DirectionSearch,
        levels: Levels,
        every: int,
        epsilon: float = 1.0,
        reuse: bool = False,
        seed: int = 0,
        slice: int = 16,
        fresh: int = 16,
        differences: int | None = None,
        steering: Steering | None = None,
        average: Callable[[Tensor], Tensor] = SINGLE_PROCESS.mean,
    ) -> None:
        if every < 1 or not blocks:
            raise ValueError(f"every={every} and {len(blocks)} blocks must be at least 1")
        super().__init__(base)
        self.search, self.levels, self.every = search, levels, every
        self.epsilon, self.reuse, self.average = epsilon, reuse, average
        self.slice, self.fresh, self.steering = slice, fresh, steering
        self._names = [block.name for block in blocks]
        self._parameters: list[Tensor] = [p for block in blocks for p in block.parameters]
        known = {id(p) for group in base.param_groups for p in group["params"]}
        if len({id(p) for p in self._parameters} & known) != len(self._parameters):
            raise ValueError("blocks must be disjoint, and all of their parameters the base optimizer's")
        sizes = torch.tensor([len(block.parameters) for block in blocks])
        self._block = torch.arange(len(blocks)).repeat_interleave(sizes)  # (P,), of each parameter
        self._differences = differences
        self._curvature = RunningCurvature(len(blocks), differences)
        self._generator = torch.Generator().manual_seed(seed)
        self._kept: Tensor | None = None  # (M,), last accepted multipliers
        self.updates = 0
        self.log = SearchLog()

    @classmethod
    def make(cls, config: HybridConfig, agent: Dreamer, seed: int, circuits: CircuitAccess) -> Self:
        """Make one that searches over blocks of the world model; its circuits go where the run's go.

        With several ranks, rank 0 searches for all, on sequences that each has its part of.
        """
        ranks = agent.ranks
        levels = Levels.of(config.levels)
        blocks = PARTITIONS[config.blocks](agent.world_model, config.num_qubits // levels.bits)
        open_search = partial(make_search, config, len(blocks) * levels.bits, circuits)
        search = open_search() if ranks.size == 1 else SharedSearch(ranks, open_search)
        slice, fresh = (-(-rows // ranks.size) for rows in (config.slice, config.fresh))
        groups, steering = LaProp.groups_of(config, agent), None
        if config.steer:
            groups = by_block(groups, blocks)
            steering = Steering(len(blocks), config.steer, config.steer_bound, config.warmup)
        return cls(
            LaProp.of_groups(config, groups), blocks, search, levels, config.every, config.epsilon,
            config.reuse, stream_seed(SEARCH, seed), slice, fresh, config.differences, steering, ranks.mean,
        )  # fmt: skip

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, closure: Callable[[], float] | None = None, landscape: Landscape | None = None
    ) -> float | None:
        with torch.enable_grad():
            loss = None if closure is None else closure()
        self.updates += 1
        due = self.updates % self.every == 0 or self.search.busy or (self.reuse and self._kept is not None)
        if landscape is None or not due:
            self.base.step()
        else:
            begin = perf_counter()
            with in_float32():  # differences of gradients are small
                self._step_with(landscape())
            self.log.seconds += perf_counter() - begin
        return loss

    def _step_with(self, objective: LocalObjective) -> None:
        found = self.search.poll(self.updates)
        searches = self.updates % self.every == 0 and not self.search.busy
        before = [p.clone() for p in self._parameters]
        self.base.step()
        after = [p.clone() for p in self._parameters]
        step = list(torch._foreach_sub(after, before))
        if searches:
            self._set(before)
            self._search(objective, step)
            found = self.search.poll(self.updates) or found
        if found is not None:
            self._accept_or_revert(found, objective, before, step, after)
        elif self.reuse and self._kept is not None:
            self._set(self._moved(before, step, self._kept))
        else:
            self._set(after)

    def _search(self, objective: LocalObjective, step: list[Tensor]) -> None:
        lengths, of = self._lengths(step), (self._parameters, self._block, step)
        whole, part = objective.full_batch(), objective.sub_batch(self.slice)
        linear = slopes(whole, *of)
        loss, here = (whole, linear) if part is None else (part, slopes(part, *of))
        chosen = self._curvature.turn(lengths)
        rows = curvature_rows(loss, here, *of, self.epsilon, chosen)
        found = self.average(torch.cat([linear[None], rows]))
        if not torch.isfinite(found).all():
            self.log.failed += 1
            return
        model = Quadratic(found[0], self._curvature.update(chosen, found[1:], lengths))
        self.log.searches += 1
        self.log.off_diagonal += off_diagonal(model.curvature)
        base = float(model(torch.ones_like(model.linear)))
        self.search.begin(model.ising(self.levels), base, self.updates, self._generator)

    def _accept_or_revert(
        self, found: SearchResult, objective: LocalObjective, before: list[Tensor], step: list[Tensor],
        after: list[Tensor],
    ) -> None:  # fmt: skip
        """Take the step that was found if it is no worse than the base's on fresh data."""
        multipliers = self.levels.multipliers(found.bits)  # (M,)
        multipliers[self._lengths(step) == 0.0] = 1.0  # of a block that waits, the search could know nothing
        self._set(before)
        here, loss = objective.fresh(self.fresh, new_seed(self._generator))
        losses = [here]
        for weights in (after, self._moved(before, step, multipliers)):
            self._set(weights)
            losses.append(loss())
        start, base, chosen = self.average(torch.stack(losses).double().cpu()).tolist()
        accepted = chosen <= base  # never if one of them is not a number
        if not accepted:
            self._set(after)
        self._kept = multipliers if accepted else None
        if accepted and self.steering is not None and self.updates > self.steering.begin:
            self.steering.follow(multipliers, self.param_groups)
        if math.isfinite(start + base + chosen):
            named = dict(zip(self._names, multipliers.tolist(), strict=True))
            self.log.add(found, named, start - base, start - chosen, accepted)
        else:
            self.log.failed += 1

    def _lengths(self, step: list[Tensor]) -> Tensor:
        """Return ‖d_i‖ of all blocks, (M,), float64; 0 where a block waits."""
        squares = torch.stack(torch._foreach_norm(step)).double().square().cpu()  # (P,)
        return squares.new_zeros(len(self._names)).index_add_(0, self._block, squares).sqrt()

    def _set(self, values: list[Tensor]) -> None:
        torch._foreach_copy_(self._parameters, values)

    def _moved(self, before: list[Tensor], step: list[Tensor], multipliers: Tensor) -> list[Tensor]:
        """Return the weights θ + Ds."""
        factors = multipliers[self._block].tolist()
        return list(torch._foreach_add(before, torch._foreach_mul(step, factors)))

    def metrics(self) -> dict[str, float]:
        """Return means over the searches since the last call, and what circuits cost."""
        log, self.log = self.log, SearchLog()
        rates: dict[str, float] = {}
        if self.steering is not None:
            named = zip(self._names, self.steering.rates.tolist(), strict=True)
            rates = {f"optimizer/rate/{name}": rate for name, rate in named}
        return log.means() | self.search.metrics() | rates

    def state_dict(self) -> dict[str, Any]:
        """Return the base's state, and under `hybrid` all that the search needs to go on exactly."""
        own = {
            "updates": self.updates,
            "generator": self._generator.get_state(),
            "kept": self._kept,
            "log": asdict(self.log),
            "search": self.search.state_dict(),
            "curvature": self._curvature.state_dict(),
        }
        if self.steering is not None:
            own["rates"] = self.steering.rates
        return super().state_dict() | {"hybrid": own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state, or that of the base alone: then the search begins anew."""
        state = dict(state_dict)
        own = state.pop("hybrid", None)
        super().load_state_dict(state)
        self._curvature = RunningCurvature(len(self._names), self._differences)
        if own is None:
            return
        self.updates, self._kept = own["updates"], own["kept"]
        self._generator.set_state(own["generator"].cpu())
        self.log = SearchLog(**own["log"])
        self.search.load_state_dict(own["search"])
        if "curvature" in own:  # earlier checkpoints have none: the next search measures all of it
            self._curvature.load_state_dict(own["curvature"])
        if self.steering is not None:  # the groups' learning rates are in the base's state
            self.steering.rates = own["rates"]

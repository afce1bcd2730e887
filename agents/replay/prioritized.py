"""Prioritized replay of sequences (Schaul et al. 2016), with any distribution over a sum tree's leaves."""

import json
from collections import deque
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from qdreamer.agents.replay.config import SAMPLERS, PriorityConfig
from qdreamer.agents.replay.priorities import Priorities
from qdreamer.agents.replay.sampler import Eligible, Sampler, Starts
from qdreamer.agents.replay.sum_tree import TreeDistribution
from qdreamer.configs.schema import Bool, settings

HISTOGRAM = 10_000  # values


@settings
class PrioritizedConfig(PriorityConfig):
    """With a visit bonus: curious replay."""

    stratified: Bool  # one draw from each of B equal parts


@SAMPLERS.register("curious", PrioritizedConfig)
@SAMPLERS.register("prioritized", PrioritizedConfig)
class PrioritizedSampler(Sampler):
    """Draws starts from q = (1 − floor)·proposal + floor/N and weighs them by (1/(N·q))^β.

    N is the number of starts that can be drawn. With β = 1 a weighted mean over draws is an unbiased
    estimate of the mean over the buffer, whatever the proposal is: its weights are not divided by the
    largest. β goes linearly from its first to its second value within `beta_updates` updates.

    Args:
        priorities: the tree. proposal: draws from it. floor: share of uniform draws.
        seed: of the sampler's own generator.
    """

    def __init__(
        self,
        priorities: Priorities,
        proposal: TreeDistribution,
        beta: tuple[float, float],
        beta_updates: int,
        floor: float,
        seed: int,
    ) -> None:
        self.priorities, self.proposal = priorities, proposal
        self._beta, self._beta_updates, self._floor = beta, beta_updates, floor
        self._random = np.random.default_rng(np.random.SeedSequence([2, seed]))
        self._sums = np.zeros(4)  # draws, w, w², −ln q since the last line of metrics
        self._largest = 0.0  # w
        self._recent: deque[NDArray[np.float32]] = deque(maxlen=256)

    @classmethod
    def make(cls, config: PrioritizedConfig, num_envs: int, length: int, seed: int, circuits: Any) -> Self:
        priorities = config.make_priorities(num_envs)
        proposal = TreeDistribution(priorities.tree, config.stratified)
        return cls(priorities, proposal, config.beta, config.annealing, 0.0, seed)

    @property
    def beta(self) -> float:
        start, end = self._beta
        done = self.priorities.seen.updates / self._beta_updates if self._beta_updates else 1.0
        return start + (end - start) * min(done, 1.0)

    def draw(self, count: int, eligible: Eligible) -> tuple[Starts, NDArray[np.float32]]:
        priorities, proposal, random = self.priorities, self.proposal, self._random
        priorities.sync(eligible)
        proposal.prepare(priorities.filled)
        number = priorities.count
        anywhere = random.random(random.binomial(count, self._floor)) * number
        chosen = proposal.draw(count - len(anywhere), random)
        leaf = np.concatenate([priorities.uniform(anywhere.astype(np.int64)), chosen])
        q = proposal.probability(leaf) * (1.0 - self._floor) + self._floor / number
        weights = (1.0 / (number * q)) ** self.beta
        self._sums += np.array([len(q), weights.sum(), weights @ weights, -np.log(q).sum()])
        self._largest = max(self._largest, float(weights.max()))
        single = weights.astype(np.float32)
        self._recent.append(single)
        return priorities.starts(leaf), single

    def update(self, starts: Starts, priorities: NDArray[np.float32]) -> None:
        """Raises FloatingPointError for priorities that are not finite, ValueError for negative ones."""
        self.priorities.update(starts, priorities)

    def metrics(self) -> dict[str, float]:
        """Effective sample size and entropy as shares of their largest values, and the weights."""
        draws, total, squares, surprise = self._sums.tolist()
        out = {"replay/beta": self.beta, **self.proposal.metrics()}
        if draws:
            number = max(self.priorities.count, 2)
            out |= {
                "replay/weight_mean": total / draws,
                "replay/weight_max": self._largest,
                "replay/effective_sample_size": total * total / (draws * squares),
                # The mean of −ln q over draws from q is its entropy.
                "replay/entropy": surprise / draws / float(np.log(number)),
            }
        self._sums[:], self._largest = 0.0, 0.0
        return out

    def histograms(self) -> dict[str, NDArray[Any]]:
        leaf = self.priorities.drawable()
        leaf = leaf[:: max(1, -(-len(leaf) // HISTOGRAM))]
        out: dict[str, NDArray[Any]] = {"replay/priority": self.priorities.tree.leaves[leaf]}
        if self._recent:
            weights = np.concatenate(self._recent)  # in the order of the leaves: the last are no sample
            out["replay/weight"] = weights[:: max(1, -(-len(weights) // HISTOGRAM))]
        return out

    def state_dict(self) -> dict[str, Any]:
        return {
            "priorities": self.priorities.state_dict(),
            "proposal": self.proposal.state_dict(),
            "random": json.dumps(self._random.bit_generator.state),
            "sums": self._sums.tolist(),
            "largest": self._largest,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.priorities.load_state_dict(state["priorities"])
        self.proposal.load_state_dict(state["proposal"])
        self._random.bit_generator.state = json.loads(state["random"])
        self._sums[:] = state["sums"]
        self._largest = state["largest"]

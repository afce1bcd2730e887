"""What the leaves of the tree are drawn from: the whole tree, or a circuit's measurements of its top."""

from typing import Any, Protocol

import numpy as np

from qdreamer.agents.replay.sum_tree import Floats, Ints, SumTree


class Proposal(Protocol):
    """A distribution over the leaves of a sum tree. It may lag behind the tree's weights; the
    probabilities that it names are those that it draws with."""

    def prepare(self, filled: int) -> None:
        """Called before every batch; leaves from `filled` on were never used."""
        ...

    def draw(self, count: int, random: np.random.Generator) -> Ints:
        """Leaves (n,), in any order. Never one of weight 0."""
        ...

    def probability(self, leaf: Ints) -> Floats:
        """Return the probability of drawing each of the leaves (n,) now."""
        ...

    def metrics(self) -> dict[str, float]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class TreeDistribution:
    """In proportion to the weights, now: all qubits of the loaded state measured, in this process.

    `stratified` draws one leaf from each of n equal parts of the total (Schaul et al. 2016, app.
    B.2.1): the same probabilities, less variance. Draws come in the order of the leaves, which is
    cache-friendly.
    """

    def __init__(self, tree: SumTree, stratified: bool = False) -> None:
        self._tree, self._stratified = tree, stratified

    def prepare(self, filled: int) -> None:
        """Nothing to do: the tree is always current."""

    def draw(self, count: int, random: np.random.Generator) -> Ints:
        value = random.random(count)
        if self._stratified:
            value += np.arange(count)
            value *= self._tree.total / count
        else:
            value.sort()
            value *= self._tree.total
        return self._tree.find(value)

    def probability(self, leaf: Ints) -> Floats:
        return self._tree.leaves.take(leaf) / self._tree.total

    def metrics(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""

"""A sum tree over the leaves of a ring: draws and updates of many leaves at once, level by level.

Every node holds the sum of its two children, so a weighted draw walks from the root to a leaf: right
where the drawn value reaches the left child's sum. The same numbers are the rotations of Grover and
Rudolph's state preparation, θ = 2·arcsin √(right / total): a walk is a measurement of the loaded
state, qubit by qubit (docs/quantum-replay.md).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

WHOLE = 1024  # nodes: levels up to this size are recomputed and searched as a whole

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class SumTree:
    """Weights of `size` leaves, all 0 at first; 16 bytes per leaf.

    `levels[k][i]` is the sum of `levels[k + 1][2i]` and `levels[k + 1][2i + 1]`; `levels[0]` is the
    total, `levels[-1]` the leaves. Sums are recomputed, never adjusted: they cannot drift, and a node
    over leaves of weight 0 is exactly 0.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        sizes = [max(size + size % 2, 2)]
        while sizes[0] > 1:
            half = sizes[0] // 2
            sizes.insert(0, half + half % 2 if half > 1 else 1)
        self.levels: list[Floats] = [np.zeros(n) for n in sizes]
        self._top = max(k for k, level in enumerate(self.levels) if len(level) <= WHOLE)

    @property
    def depth(self) -> int:
        """Levels below the root."""
        return len(self.levels) - 1

    @property
    def total(self) -> float:
        return float(self.levels[0][0])

    @property
    def leaves(self) -> Floats:
        """(size,); to be changed by `set` only."""
        return self.levels[-1][: self.size]

    def set(self, leaf: Ints, weight: Floats | float) -> None:
        """Give leaves (n,) their weights, ≥ 0 and finite; of leaves named twice the last one counts."""
        self.levels[-1][leaf] = weight
        many = 4 * len(leaf) > self.size  # most nodes change: whole levels are faster
        node = leaf
        for k in range(self.depth - 1, -1, -1):
            level, below = self.levels[k], self.levels[k + 1]
            if many or k <= self._top:
                half = len(below) // 2
                np.add(below[0::2], below[1::2], out=level[:half])
            else:
                node = node >> 1
                right = (node << 1) | 1
                level[node] = below.take(right - 1) + below.take(right)

    def find(self, value: Floats) -> Ints:
        """The leaves (n,) in which values (n,) in [0, total) fall, when weights are laid end to end.

        Raises ValueError when all weights are 0.
        """
        top = self.levels[self._top]
        ends = top.cumsum()
        if not ends[-1] > 0.0:
            raise ValueError("all weights are 0: there is nothing to draw")
        # Sums in another order may end below a value; beyond the last end lie no weights.
        value = np.minimum(value, np.nextafter(ends[-1], 0.0))
        node = ends.searchsorted(value, side="right")
        return self.descend(node, value - (ends - top).take(node), self._top)

    def descend(self, node: Ints, value: Floats, level: int) -> Ints:
        """From nodes (n,) of a level, with sums > 0, to leaves; values (n,) in [0, sum of the node).

        This measures the qubits below `level`, given those above. What is left of a value after a
        step, over the sum of the node it went to, is again uniform and independent of the step taken:
        one random number is a fresh coin for every level.
        """
        start, node, left_over = node, node.copy(), value.copy()
        for below in self.levels[level + 1 :]:
            node <<= 1
            left = below.take(node)
            right = left_over >= left
            left *= right
            left_over -= left
            node += right
        # Differences round: a value may end beside the last leaf that has a weight.
        lost = np.flatnonzero(self.levels[-1].take(node) <= 0.0)
        if len(lost):
            node[lost] = self._descend_safely(start[lost], value[lost], level)
        return node

    def _descend_safely(self, node: Ints, value: Floats, level: int) -> Ints:
        """As `descend`, but never into a node without weight."""
        node, left_over = node.copy(), value.copy()
        for below in self.levels[level + 1 :]:
            node = node << 1
            left = below[node]
            right = ((left_over >= left) | (left <= 0.0)) & (below[node + 1] > 0.0)
            left_over -= left * right
            node += right
        return node


class TreeDistribution:
    """Draws in proportion to the weights, now: all qubits of the loaded state measured, in this process.

    `stratified` draws one leaf from each of n equal parts of the total (Schaul et al. 2016, app. B.2.1): the
    same probabilities, less variance. Draws come in the order of the leaves, which is cache-friendly.
    Subclasses may lag behind the tree's weights; the probabilities that they name are those they draw with.
    """

    def __init__(self, tree: SumTree, stratified: bool = False) -> None:
        self._tree, self._stratified = tree, stratified

    def prepare(self, filled: int) -> None:
        """Called before every batch; leaves from `filled` on were never used."""

    def draw(self, count: int, random: np.random.Generator) -> Ints:
        """Leaves (n,), in any order. Never one of weight 0."""
        value = random.random(count)
        if self._stratified:
            value += np.arange(count)
            value *= self._tree.total / count
        else:
            value.sort()
            value *= self._tree.total
        return self._tree.find(value)

    def probability(self, leaf: Ints) -> Floats:
        """The probability of drawing each of the leaves (n,) now."""
        return self._tree.leaves.take(leaf) / self._tree.total

    def metrics(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""

"""Actions as one flat vector: one-hot classes and numbers in [−1, 1], leaf after leaf.

The agent acts in such vectors, the world model sees them, replay keeps them; `to_environment` makes of one
what the environment takes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import Space, spaces
from gymnasium.wrappers.utils import rescale_box
from numpy.typing import NDArray

from qdreamer.envs.leaves import UnsupportedSpaceError, leaves, rebuild, shown


@dataclass(frozen=True)
class Classes:
    """`count` choices among `classes`, each one-hot."""

    classes: int
    count: int = 1

    kind = "discrete"

    @property
    def size(self) -> int:
        """Numbers in the action vector."""
        return self.count * self.classes

    def random(
        self, count: int, random: np.random.Generator, mask: NDArray[Any] | None
    ) -> NDArray[np.float32]:
        """Return uniform choices (count, size), among those where `mask` (count, size) is not 0."""
        shape = count * self.count, self.classes
        if mask is None:
            index = random.integers(self.classes, size=shape[0])
        else:
            allowed = mask.reshape(shape) > 0
            allowed |= ~allowed.any(-1, keepdims=True)  # a mask that forbids all is none
            index = np.where(allowed, random.random(shape), -1.0).argmax(-1)
        return np.eye(self.classes, dtype=np.float32)[index].reshape(count, -1)


@dataclass(frozen=True)
class Numbers:
    """`size` numbers in [−1, 1]."""

    size: int

    kind, count = "continuous", 1

    def random(
        self, count: int, random: np.random.Generator, mask: NDArray[Any] | None
    ) -> NDArray[np.float32]:
        """Return uniform numbers (count, size)."""
        return random.uniform(-1.0, 1.0, (count, self.size)).astype(np.float32)


@dataclass(frozen=True)
class ActionSpec:
    """The leaves of an action, in order. Leaf i takes the numbers `slices[i]` of the action vector (A,)."""

    leaves: tuple[Classes | Numbers, ...]

    @classmethod
    def discrete(cls, classes: int) -> "ActionSpec":
        """Return the spec of one of so many classes."""
        return cls((Classes(classes),))

    @classmethod
    def continuous(cls, size: int) -> "ActionSpec":
        """Return the spec of so many numbers in [−1, 1]."""
        return cls((Numbers(size),))

    @property
    def size(self) -> int:
        """A, numbers of an action vector."""
        return sum(leaf.size for leaf in self.leaves)

    @property
    def slices(self) -> list[slice]:
        ends = np.cumsum([leaf.size for leaf in self.leaves]).tolist()
        return [slice(end - leaf.size, end) for leaf, end in zip(self.leaves, ends, strict=True)]

    @property
    def space(self) -> spaces.Box:
        """The space of action vectors."""
        return spaces.Box(-1.0, 1.0, (self.size,), np.float32)

    @property
    def numbers(self) -> list[int]:
        """Places of an action vector that hold continuous numbers."""
        each = zip(self.leaves, self.slices, strict=True)
        return [k for leaf, part in each if leaf.kind == "continuous" for k in range(part.start, part.stop)]

    def random(
        self, count: int, random: np.random.Generator, mask: NDArray[Any] | None = None
    ) -> NDArray[np.float32]:
        """Return uniform actions (count, A), among those that the mask (count, A) allows."""
        parts = [
            leaf.random(count, random, None if mask is None else mask[:, part])
            for leaf, part in zip(self.leaves, self.slices, strict=True)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, 1)

    def __str__(self) -> str:
        words = {"discrete": "one of {0.classes}", "continuous": "{0.size} in [−1, 1]"}
        each = [words[leaf.kind].format(leaf) for leaf in self.leaves]
        counts = [leaf.count for leaf in self.leaves]
        return ", ".join(f"{n} × {text}" if n > 1 else text for n, text in zip(counts, each, strict=True))


ToEnvironment = Callable[[NDArray[np.float32]], Any]


def read_actions(space: Space[Any]) -> tuple[ActionSpec, ToEnvironment]:
    """Return the spec of an action space, and the function from an action vector (A,) to its element.

    Raises UnsupportedSpaceError for all but Discrete, MultiDiscrete, MultiBinary, bounded Box, and Dict and
    Tuple spaces of these.
    """
    found: list[Classes | Numbers] = []
    parts: list[ToEnvironment] = []
    begin = 0
    for name, leaf in leaves(space, "action").items():
        specs, convert = _leaf(name, leaf.space)
        end = begin + sum(spec.size for spec in specs)
        found += specs
        parts.append(_cut(convert, begin, end))
        begin = end
    if not found:
        raise UnsupportedSpaceError(f"the action space {shown(space)} has nothing to choose")
    if len(parts) == 1 and not isinstance(space, spaces.Dict | spaces.Tuple):
        return ActionSpec(tuple(found)), convert
    return ActionSpec(tuple(found)), rebuild(space, parts)


def _cut(convert: ToEnvironment, begin: int, end: int) -> ToEnvironment:
    return lambda action: convert(action[begin:end])


def _leaf(name: str, space: Space[Any]) -> tuple[list[Classes | Numbers], ToEnvironment]:
    if isinstance(space, spaces.Discrete):
        start = space.start
        return [Classes(int(space.n))], lambda action: action.argmax() + start
    if isinstance(space, spaces.MultiDiscrete):
        runs = _runs([int(n) for n in space.nvec.ravel()])
        return list(runs), _to_classes(runs, space.start, space.shape, space.dtype)
    if isinstance(space, spaces.MultiBinary):
        runs = [Classes(2, int(np.prod(space.shape)))]
        return list(runs), _to_classes(runs, np.zeros(space.shape, np.int8), space.shape, space.dtype)
    if isinstance(space, spaces.Box) and space.dtype.kind in "biuf":
        if not space.is_bounded("both"):
            raise UnsupportedSpaceError(
                f"entry {name} of the action is {shown(space)}, without finite bounds: give it some in a "
                "gymnasium.wrappers.TransformAction that env.wrappers names"
            )
        return [Numbers(int(np.prod(space.shape)))], _to_box(space)
    raise UnsupportedSpaceError(
        f"entry {name} of the action is {shown(space)}, which the agent cannot choose: make it Discrete, "
        "MultiDiscrete, MultiBinary or a bounded Box in a gymnasium.wrappers.TransformAction that "
        "env.wrappers names"
    )


def _runs(sizes: list[int]) -> list[Classes]:
    """Return neighbours with equally many classes together."""
    runs: list[Classes] = []
    for size in sizes:
        if runs and runs[-1].classes == size:
            runs[-1] = Classes(size, runs[-1].count + 1)
        else:
            runs.append(Classes(size))
    return runs


def _to_classes(runs: list[Classes], start: Any, shape: tuple[int, ...], dtype: Any) -> ToEnvironment:
    ends = np.cumsum([run.size for run in runs]).tolist()

    def convert(action: NDArray[np.float32]) -> NDArray[Any]:
        parts = [
            action[end - run.size : end].reshape(run.count, run.classes).argmax(-1)
            for run, end in zip(runs, ends, strict=True)
        ]
        return (np.concatenate(parts).reshape(shape) + start).astype(dtype)

    return convert


def _to_box(space: spaces.Box) -> ToEnvironment:
    """Return the function from [−1, 1] (anything outside is clipped) to the bounds of a Box, and its type."""
    kind, low, high = space.dtype.kind, space.low, space.high
    narrow = kind != "f" or space.dtype == np.float16  # rescaled in float64, then rounded
    box = spaces.Box(low.astype(np.float64), high.astype(np.float64), dtype=np.float64) if narrow else space
    with np.errstate(all="ignore"):
        _, _, rescale = rescale_box(box, box.dtype.type(-1.0), box.dtype.type(1.0))
        top, span = rescale(np.ones_like(box.low)), high / np.float64(2.0) - low / np.float64(2.0)
    wide = ~(np.abs(top / np.float64(2.0) - high / np.float64(2.0)) <= 0.01 * span)  # no slope, or no number
    wide |= low == high
    shape = space.shape

    def convert(action: NDArray[np.float32]) -> NDArray[Any]:
        within = np.minimum(np.maximum(action, -1.0), 1.0).reshape(shape)  # np.clip takes twice as long
        return np.minimum(np.maximum(rescale(within), low), high)  # rounding may lead out

    if not narrow and not wide.any():
        return convert

    def weigh(action: NDArray[np.float32]) -> NDArray[Any]:
        """Weigh both bounds: exact where they are one, and where their distance is beyond all numbers."""
        share = np.minimum(np.maximum(action.astype(np.float64), -1.0), 1.0).reshape(shape) / 2.0 + 0.5
        return low * (1.0 - share) + high * share

    def exactly(action: NDArray[np.float32]) -> NDArray[Any]:
        with np.errstate(all="ignore"):
            value = np.where(wide, weigh(action), convert(action))
            value = value if kind == "f" else np.rint(value)
            return np.clip(value, low, high).astype(space.dtype)

    return exactly

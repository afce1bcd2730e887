"""Observations as named entries: what each is, and how it is read from what the environment shows.

A bare Box or Discrete is `{"observation": …}`; Dict and Tuple spaces are flattened to paths. Replay keeps an
entry's array as its spec says, and `worldmodel.networks` has an encoder and a decoder for each kind of spec.
"""

import functools
import math
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from gymnasium import Space, spaces
from numpy.typing import NDArray
from PIL import Image as Pillow

from qdreamer.envs.edge.guard import WrongValueError, brief, note
from qdreamer.envs.leaves import Leaf, UnsupportedSpaceError, leaves, shown

ENTRY = "observation"  # the only entry of a space without others inside
ACTION_MASK = "action_mask"
LARGEST, SMALLEST = 96, 5  # sides of an image: larger ones are resized, smaller ones are vectors
TEXT_SIZE = 64
Read = Callable[[Any], NDArray[Any]]
Choice = Literal["image", "vector", "ignore"]


@dataclass(frozen=True)
class Vector:
    """`size` numbers."""

    size: int
    dtype, observed, sizes = np.dtype(np.float32), True, ()

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.size,)

    def __str__(self) -> str:
        return f"vector of {self.size}"


@dataclass(frozen=True)
class Image:
    """A picture, H×W×C bytes, whatever the environment's layout and scale."""

    height: int
    width: int
    channels: int
    dtype, observed, sizes = np.dtype(np.uint8), True, ()

    @property
    def shape(self) -> tuple[int, ...]:
        return self.height, self.width, self.channels

    def __str__(self) -> str:
        return f"image {self.height}×{self.width}×{self.channels}"


@dataclass(frozen=True)
class Categorical:
    """Some variables, each one of so many classes, which are counted from 0."""

    sizes: tuple[int, ...]
    observed = True

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.sizes),)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.min_scalar_type(-max(self.sizes)) if max(self.sizes) > 256 else np.dtype(np.uint8)

    def __str__(self) -> str:
        return f"classes {', '.join(map(str, self.sizes))}"


@dataclass(frozen=True)
class Binary:
    """`size` zeros and ones; all but unwanted masks are `observed`."""

    size: int
    observed: bool = True
    dtype, sizes = np.dtype(np.uint8), (2,)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.size,)

    def __str__(self) -> str:
        return f"{self.size} bits"


@dataclass(frozen=True)
class Text(Binary):
    """Words without their order: each sets the bit that its hash names."""

    def __str__(self) -> str:
        return f"text, by {self.size} hashes of words"


@dataclass(frozen=True)
class Mask(Binary):
    """Which actions are allowed, a bit for each number of an action vector (`actions.ActionSpec`).

    The world model predicts it for imagination, and sees it only if it is `observed`.
    """

    observed: bool = False

    def __str__(self) -> str:
        return "mask of actions" + ", observed as well" * self.observed


Spec = Vector | Image | Categorical | Binary


def field(name: str) -> str:
    """Return what replay and losses call an entry: "observation", or "observation/NAME" for all others."""
    return ENTRY if name == ENTRY else f"{ENTRY}/{name}"


class Entry(NamedTuple):
    """An entry's spec, and the function that reads it from a whole observation.

    `read` raises WrongValueError for what is not of the entry's space: another shape or kind of numbers, a
    class that is not there. Whether numbers are finite, and within `bounds`, is seen in many copies at once
    (`envs.vector`).
    """

    spec: Spec
    read: Read
    bounds: tuple[NDArray[Any], NDArray[Any]] | None = None  # (low, high) of a Box's numbers, flat

    @property
    def space(self) -> spaces.Box:
        """The space of what is read."""
        low, high = (-np.inf, np.inf) if self.spec.dtype.kind == "f" else (0, np.iinfo(self.spec.dtype).max)
        return spaces.Box(low, high, self.spec.shape, self.spec.dtype.type)


def read_entries(
    space: Space[Any], choices: Mapping[str, Choice], image_size: int, actions: int | None = None
) -> dict[str, Entry]:
    """Return the entries of an observation space.

    Args:
        choices: name → what to take an entry for, where its space does not say.
        image_size: longest side of an image, once it is resized.
        actions: A, numbers of an action, if an entry called `action_mask` may be a mask of them.

    Raises UnsupportedSpaceError, also for choices that fit no entry.
    """
    found: dict[str, Entry] = {}
    for name, leaf in (named := leaves(space, ENTRY)).items():
        choice = choices.get(name)
        if choice == "ignore":
            continue
        if actions is not None and leaf.keys[-1:] == (ACTION_MASK,) and is_mask(leaf.space, actions):
            read = _after(name, leaf, _checked(name, leaf.space, _bits))
            found[ACTION_MASK] = Entry(Mask(actions, choice is not None), read)
        else:
            entry = _entry(name, leaf.space, choice, image_size)
            found[name] = entry._replace(read=_after(name, leaf, entry.read))
    unknown = set(choices) - set(named) - {ACTION_MASK}
    if unknown:
        raise UnsupportedSpaceError(
            f"env.entries.{min(unknown)} names no entry of the observation; they are {', '.join(named)}"
        )
    if not any(entry.spec.observed for entry in found.values()):
        raise UnsupportedSpaceError("no entry of the observation is left to see: ignore fewer in env.entries")
    return found


def is_mask(space: Space[Any], actions: int) -> bool:
    """Tell whether elements of a space can be a mask of as many actions."""
    return isinstance(space, spaces.Box | spaces.MultiBinary) and space.shape == (actions,)


def _after(name: str, leaf: Leaf, read: Read) -> Read:
    if not leaf.keys:
        return read

    def of(observation: Any) -> NDArray[Any]:
        try:
            value = leaf.of(observation)
        except (KeyError, IndexError, TypeError) as error:
            raise WrongValueError(
                f"entry {name} is missing from the observation, {brief(observation)}"
            ) from error
        return read(value)

    return of


def _checked(name: str, space: Space[Any], read: Read, exact: bool = False) -> Read:
    """Return `read` behind a look at the array that arrives: as many numbers as the space has, none of them
    complex or an object. With `exact` their shape and kind are the space's.
    """
    shape, size, whole = space.shape, int(np.prod(space.shape)), np.dtype(space.dtype).kind in "biu"  # type: ignore

    def checked(value: Any) -> NDArray[Any]:
        array = np.asarray(value)
        kind = array.dtype.kind
        if array.shape != shape or kind not in "biuf" or (exact and whole and kind == "f"):
            if value is None or kind not in "biuf":
                raise WrongValueError(f"entry {name} is {brief(value)}, not of {shown(space)}")
            if array.size != size or exact:
                raise WrongValueError(
                    f"entry {name} has the shape {array.shape} and type {array.dtype}, not of {shown(space)}"
                )
        return read(array)

    return checked


def _entry(name: str, space: Space[Any], choice: Choice | None, image_size: int) -> Entry:
    """Return the spec of one leaf, and how to read an element of its space."""
    if isinstance(space, spaces.Box) and space.dtype.kind in "biuf" and space.low.size:
        axes = None if choice == "vector" else image_axes(space, forced=choice == "image")
        if axes is not None:
            image = _image(name, space, axes, image_size)
            return image._replace(read=_checked(name, space, image.read, exact=True))
        if choice is None or choice == "vector":
            bounds = np.ravel(space.low), np.ravel(space.high)
            finite = bool(np.isfinite(bounds).any())
            return Entry(Vector(space.low.size), _checked(name, space, _numbers), bounds if finite else None)
    if choice == "image":
        raise UnsupportedSpaceError(
            f"env.entries.{name}=image: {shown(space)} is not an image, which is a Box of two or three axes, "
            f"sides of {SMALLEST} or more, and finite bounds"
        )
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        return _classes(name, space, choice)
    if isinstance(space, spaces.MultiBinary):
        size = int(np.prod(space.shape))
        if choice == "vector":
            return Entry(Vector(size), _checked(name, space, _numbers))

        def bits(value: NDArray[Any]) -> NDArray[np.uint8]:
            if ((value != 0) & (value != 1)).any():
                raise WrongValueError(f"entry {name} is {brief(value)}, outside {shown(space)}")
            return _bits(value)

        return Entry(Binary(size), _checked(name, space, bits))
    if space.dtype is not None and np.dtype(space.dtype).kind == "U" and choice is None:  # Text, missions

        def words(text: Any) -> NDArray[np.uint8]:
            if not isinstance(text, str):
                raise WrongValueError(f"entry {name} is {brief(text)}, not a text")
            return bag_of_words(text, TEXT_SIZE).copy()

        return Entry(Text(TEXT_SIZE), words)
    raise UnsupportedSpaceError(
        f"entry {name} of the observation is {shown(space)}, which the agent cannot read: leave it out by "
        f"env.entries.{name}=ignore, or make a Box of it in a gymnasium.wrappers.TransformObservation that "
        "env.wrappers names"
    )


def _classes(name: str, space: spaces.Discrete | spaces.MultiDiscrete, choice: Choice | None) -> Entry:
    start = np.asarray(space.start, np.int64)
    if choice == "vector":
        return Entry(
            Vector(int(np.size(start))),
            _checked(name, space, lambda x: (x - start.reshape(x.shape)).astype(np.float32).reshape(-1)),
        )
    counts = space.n if isinstance(space, spaces.Discrete) else space.nvec
    spec = Categorical(tuple(int(n) for n in np.ravel(counts)))
    sizes = np.array(spec.sizes)
    first = start.reshape(-1)

    def classes(value: NDArray[Any]) -> NDArray[Any]:
        index = value.reshape(-1) - first
        if ((index < 0) | (index >= sizes)).any() or (index.dtype.kind == "f" and (index % 1).any()):
            raise WrongValueError(f"entry {name} is {brief(value)}, outside {shown(space)}")
        return index.astype(spec.dtype)

    return Entry(spec, _checked(name, space, classes))


def _numbers(value: Any) -> NDArray[np.float32]:
    return np.ascontiguousarray(value, np.float32).reshape(-1)


def _bits(value: Any) -> NDArray[np.uint8]:
    return np.asarray(value).astype(np.uint8).reshape(-1)


def image_axes(space: spaces.Box, forced: bool = False) -> tuple[int, ...] | None:
    """Return the axes of height, width and channels (if there is such an axis) of an image, else None.

    Images are bytes with two or three axes, or numbers in [0, 1] with three; any with finite bounds if
    `forced`. Channels come last unless the first axis is the strictly smallest.
    """
    shape, bytes_ = space.shape, space.dtype == np.uint8
    low, high = space.low.min(), space.high.max()
    if forced:
        known = len(shape) in (2, 3) and bool(np.isfinite([low, high]).all())
    else:
        known = len(shape) in (2, 3) if bytes_ else len(shape) == 3 and low == 0 and high == 1
    if not known:
        return None
    axes = (1, 2, 0) if len(shape) == 3 and shape[0] < min(shape[1:]) else tuple(range(len(shape)))
    return axes if min(shape[axes[0]], shape[axes[1]]) >= SMALLEST else None


def _image(name: str, space: spaces.Box, axes: tuple[int, ...], image_size: int) -> Entry:
    height, width = (space.shape[axis] for axis in axes[:2])
    channels = space.shape[axes[2]] if len(axes) == 3 else 1
    low, high = float(space.low.min()), float(space.high.max())

    def within(x: NDArray[Any]) -> NDArray[Any]:
        """Say it once when numbers lie outside the space: they are clipped, or wrapped around, to bytes."""
        least, most = float(x.min()), float(x.max())
        if not (math.isfinite(least) and math.isfinite(most)):
            raise WrongValueError(f"entry {name} has numbers that are not finite")
        if least < low or most > high:
            note(name, f"goes from {least:g} to {most:g}, outside its space's {low:g} to {high:g}")
        return x

    steps: list[Read] = []
    if space.dtype != np.uint8:
        factor = 255.0 / max(high - low, 1e-12)
        steps += [within, lambda x: np.rint(np.clip((x - low) * factor, 0, 255)).astype(np.uint8)]
    else:
        steps.append(lambda x: x if x.dtype == np.uint8 else within(x).clip(0, 255).astype(np.uint8))
    if axes == (1, 2, 0):
        steps.append(lambda x: np.ascontiguousarray(x.transpose(axes)))
    # Renderers hand out pictures upside down in memory, which torch does not take.
    steps.append(lambda x: np.ascontiguousarray(x.reshape(height, width, channels)))
    if max(height, width) > LARGEST:
        small = Image(min(height, image_size), min(width, image_size), channels)
        return Entry(small, lambda x: resize(_all(steps, x), small.height, small.width))
    return Entry(Image(height, width, channels), lambda x: _all(steps, x))


def _all(steps: list[Read], value: Any) -> NDArray[Any]:
    for step in steps:
        value = step(value)
    return value


def resize(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Return an image (H, W, C) in another size, (height, width, C): each pixel the mean of its area."""
    parts = [image] if image.shape[2] == 3 else np.split(image, image.shape[2], -1)
    small = [
        np.asarray(
            Pillow.fromarray(np.ascontiguousarray(part if part.shape[2] == 3 else part[..., 0])).resize(
                (width, height), Pillow.Resampling.BOX
            )
        )
        for part in parts
    ]
    return small[0] if image.shape[2] == 3 else np.stack(small, -1)


@functools.lru_cache(4096)
def bag_of_words(text: str, size: int) -> NDArray[np.uint8]:
    """Return the bits (size,) that the words of a text set, in whatever order, case and number."""
    bits = np.zeros(size, np.uint8)
    for word in re.findall(r"\w+", text.lower()):
        bits[zlib.crc32(word.encode()) % size] = 1
    bits.flags.writeable = False  # it is handed out again
    return bits

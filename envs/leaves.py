"""The leaves of nested spaces, by name: what `entries` and `actions` are made of."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from gymnasium import Space, spaces


class UnsupportedSpaceError(ValueError):
    """A space that the agent cannot use; the message names the entry, its space and a way out."""


class Leaf(NamedTuple):
    """A space inside of which there are no others, and how to get there."""

    keys: tuple[Any, ...]
    space: Space[Any]

    def of(self, value: Any) -> Any:
        """Return the leaf's part of an element of the whole space."""
        for key in self.keys:
            value = value[key]
        return value


def leaves(space: Space[Any], name: str) -> dict[str, Leaf]:
    """Return the leaves of Dict and Tuple spaces by path ("inventory/wood", "0"), in the space's order.

    A space without others inside is one leaf, called `name`. Raises UnsupportedSpaceError where two leaves
    have the same path.
    """
    found: dict[str, Leaf] = {}
    for leaf in _walk(space, ()):
        path = "/".join(map(str, leaf.keys)) or name
        if path in found:
            raise UnsupportedSpaceError(f"two entries are called {path}: rename a key of the Dict space")
        found[path] = leaf
    return found


def _walk(space: Space[Any], keys: tuple[Any, ...]) -> Iterator[Leaf]:
    if isinstance(space, spaces.Dict | spaces.Tuple):
        inner = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
        for key, part in inner:
            yield from _walk(part, (*keys, key))
    else:
        yield Leaf(keys, space)


def rebuild(space: Space[Any], parts: list[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    """Return the function that makes an element of `space` from what each leaf's function makes, in order."""
    rest = iter(parts)

    def make(space: Space[Any]) -> Callable[[Any], Any]:
        if isinstance(space, spaces.Dict):
            named = {key: make(part) for key, part in space.spaces.items()}
            return lambda value: {key: part(value) for key, part in named.items()}
        if isinstance(space, spaces.Tuple):
            row = [make(part) for part in space.spaces]
            return lambda value: tuple(part(value) for part in row)
        return next(rest)

    return make(space)


def shown(space: Space[Any]) -> str:
    """Return a space in a few words: a Box of many bounds by its extremes."""
    if isinstance(space, spaces.Box):
        bounds = f"{space.low.min():g}, {space.high.max():g}, " if space.low.size else ""
        return f"Box({bounds}{space.shape}, {space.dtype})"
    text = " ".join(str(space).split())
    return text if len(text) <= 80 else f"{type(space).__name__} space"

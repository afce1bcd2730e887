"""What a caller hands in, as rows: observations, and the `info` that comes with them.

Every ValueError is of one line that names the entry; whether numbers are finite is seen once they are read.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import Space, spaces
from numpy.typing import NDArray
from torch import Tensor

from qdreamer.envs.edge.guard import Watch, brief
from qdreamer.envs.interface import Interface, Observation
from qdreamer.envs.leaves import shown

WHOLE = "the observation"


def infos(info: Any, count: int, alone: bool) -> Sequence[Mapping[str, Any]]:
    """Return the `info` of each row; Gymnasium's vectors give one of arrays, and say which rows have it."""
    if info is None:
        return [{}] * count
    if not alone and isinstance(info, Mapping):
        names = [name for name in info if f"_{name}" in info]
        return [{name: info[name][i] for name in names if info[f"_{name}"][i]} for i in range(count)]
    found = [info] if isinstance(info, Mapping) else _parts(info)
    if len(found) != count or not all(isinstance(one, Mapping) for one in found):
        raise ValueError(f"info is {brief(info)}, not a dictionary for each of {count} observations")
    return found


def rows(space: Space[Any], observation: Any) -> tuple[list[Any], bool]:
    """Return observations one by one, and whether only one was given, without an axis for more."""
    arrays = _arrays(space, observation, WHOLE)
    count = _count(space, arrays, WHOLE)
    return ([arrays] if count is None else [_row(arrays, i) for i in range(count)]), count is None


def read(interface: Interface, each: list[Any], about: Sequence[Mapping[str, Any]]) -> Observation:
    """Return the entries (B, ·) of B rows. Raises ValueError, also for numbers that are not finite."""
    found = [interface.read(row, info) for row, info in zip(each, about, strict=True)]
    entries = {name: np.stack([one[name] for one in found]) for name in interface.entries}
    for name, values in entries.items():
        if values.dtype.kind == "f" and (wrong := Watch(name, None).wrong(values)) is not None:
            raise ValueError(f"{wrong[1]}: row {wrong[0]} of the observations cannot be acted on")
    return entries


def _inside(name: str, key: Any) -> str:
    return f"entry {key}" if name == WHOLE else f"{name}/{key}"


def _parts(value: Any) -> list[Any]:
    """Return what is in a sequence; nothing for all else."""
    try:
        return [] if isinstance(value, Mapping | str) else list(value)
    except TypeError:
        return []


def _arrays(space: Space[Any], value: Any, name: str) -> Any:
    """Return an observation, or several, with NumPy arrays of the space's types inside."""
    if isinstance(space, spaces.Dict):
        keys = ", ".join(map(str, space.spaces))
        if not isinstance(value, Mapping):
            raise ValueError(
                f"{name} is {brief(value)}, not a dictionary of {keys} (several at once: stack each)"
            )
        if lacking := [str(key) for key in space.spaces if key not in value]:
            raise ValueError(f"{name} lacks {', '.join(lacking)}: give all of {keys}")
        return {key: _arrays(part, value[key], _inside(name, key)) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        parts = _parts(value)
        if len(parts) != len(space.spaces):
            raise ValueError(f"{name} is {brief(value)}, not a tuple of {len(space.spaces)}")
        each = zip(space.spaces, parts, strict=True)
        return tuple(_arrays(part, one, _inside(name, i)) for i, (part, one) in enumerate(each))
    if _of_words(space):
        texts = [value] if isinstance(value, str) else _parts(value)
        if not texts or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{name} is {brief(value)}, not a text, or a list of them")
        return value
    if space.shape is None:
        return value
    return _array(space, value, name)


def _of_words(space: Space[Any]) -> bool:
    """Tell whether a space holds strings: Text, or one of MiniGrid's missions."""
    return space.dtype is not None and np.dtype(space.dtype).kind == "U"


def _array(space: Space[Any], value: Any, name: str) -> NDArray[Any]:
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    whole = space.dtype is not None and np.dtype(space.dtype).kind in "biu"
    try:
        array = np.asarray(value)
    except ValueError:  # lists of several lengths
        array = np.array(None)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} is {brief(value)}, not of {shown(space)}")
    if whole and not np.isfinite(array).all():  # which no whole number says
        raise ValueError(f"{name} has numbers that are not finite, and is of {shown(space)}")
    return array.astype(space.dtype)


def _count(space: Space[Any], arrays: Any, name: str) -> int | None:
    """Return how many observations there are, None for one without an axis for more. Raises ValueError."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        inner = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
        counts = {key: _count(part, arrays[key], _inside(name, key)) for key, part in inner}
        if len(set(counts.values())) > 1:
            said = ", ".join(f"{key} has {'one' if n is None else f'{n} rows'}" for key, n in counts.items())
            raise ValueError(f"entries of {name} do not agree on how many observations there are: {said}")
        return next(iter(counts.values()), None)
    if _of_words(space):
        return None if isinstance(arrays, str) else len(arrays)
    shape = np.shape(arrays)
    if shape == space.shape:
        return None
    if shape[1:] == space.shape and shape[0]:
        return int(shape[0])
    raise ValueError(f"{name} of shape {shape} is neither one of {space.shape} nor several")


def _row(arrays: Any, i: int) -> Any:
    if isinstance(arrays, dict):
        return {key: _row(part, i) for key, part in arrays.items()}
    if isinstance(arrays, tuple):
        return tuple(_row(part, i) for part in arrays)
    return arrays[i]

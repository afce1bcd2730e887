"""Partitions of a module's parameters into blocks, each of which gets a multiplier of its own."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import islice
from typing import NamedTuple

from torch import nn


class ParameterGroup(NamedTuple):
    """Parameters that are moved together."""

    name: str
    parameters: list[nn.Parameter]

    @property
    def size(self) -> int:
        return sum(p.numel() for p in self.parameters)


def by_module(module: nn.Module, count: int) -> list[ParameterGroup]:
    """Return at most `count` blocks along the borders of submodules.

    The largest block is split into its submodules as long as there are not too many of them. Fewer than
    the module's own parts cannot be: then the neighbours with the smallest sum are merged.
    """
    blocks = _split(ParameterGroup("", _trainable(module)), module)
    whole = set()  # names of blocks that cannot be split further
    while splittable := [block for block in blocks if block.name not in whole]:
        largest = max(splittable, key=lambda block: block.size)
        parts = _split(largest, module)
        if len(parts) == 1 or len(blocks) + len(parts) - 1 > count:
            whole.add(largest.name)
        else:
            at = blocks.index(largest)
            blocks[at : at + 1] = parts
    while len(blocks) > count:
        at = min(range(len(blocks) - 1), key=lambda k: blocks[k].size + blocks[k + 1].size)
        first, second = blocks[at : at + 2]
        merged = ParameterGroup(f"{first.name}+{second.name}", first.parameters + second.parameters)
        blocks[at : at + 2] = [merged]
    return blocks


def balanced(module: nn.Module, count: int) -> list[ParameterGroup]:
    """Return exactly `count` blocks of neighbouring parameters, the largest as small as can be."""
    parameters = _trainable(module)
    if len(parameters) < count:
        raise ValueError(f"{len(parameters)} parameters are no {count} blocks: use at most {len(parameters)}")
    sizes = [p.numel() for p in parameters]
    limit = bisect_left(
        range(sum(sizes) + 1), True, lo=max(sizes), key=lambda limit: len(_cuts(sizes, limit, 1)) <= count
    )
    left, lengths = iter(parameters), _cuts(sizes, limit, count)
    return [ParameterGroup(f"{k:02d}", list(islice(left, length))) for k, length in enumerate(lengths)]


def _cuts(sizes: Sequence[int], limit: int, least: int) -> list[int]:
    """Return lengths of runs that add up to at most `limit` each, at least `least` runs."""
    lengths, total = [0], 0
    for k, size in enumerate(sizes):
        left = len(sizes) - k  # a run of its own for each, if not enough would come otherwise
        if lengths[-1] and (total + size > limit or len(lengths) + left <= least):
            lengths.append(0)
            total = 0
        lengths[-1] += 1
        total += size
    return lengths


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters() if p.requires_grad]


def _split(block: ParameterGroup, root: nn.Module) -> list[ParameterGroup]:
    """Return the block's submodules with parameters; itself if it has one or none, or some of its own."""
    module = root.get_submodule(block.name)
    parts = [
        ParameterGroup(f"{block.name}.{name}".lstrip("."), parameters)
        for name, child in module.named_children()
        if (parameters := _trainable(child))
    ]
    if not parts or any(p.requires_grad for p in module.parameters(recurse=False)):
        return [block]
    if len(parts) == 1:  # a wrapper
        inner = _split(parts[0], root)
        return inner if len(inner) > 1 else [block]
    return parts


PARTITIONS: dict[str, Callable[[nn.Module, int], list[ParameterGroup]]] = {
    "module": by_module,
    "balanced": balanced,
}

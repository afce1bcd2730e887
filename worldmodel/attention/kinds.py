"""The table of attentions: a name → its class."""

import inspect
from typing import Any

from qdreamer.worldmodel.attention.born import Born
from qdreamer.worldmodel.attention.circuit import Circuit
from qdreamer.worldmodel.attention.coherent import Coherent
from qdreamer.worldmodel.attention.controls import RandomKeys, Uniform
from qdreamer.worldmodel.attention.kernel import AttentionKernel
from qdreamer.worldmodel.attention.sampled import Sampled
from qdreamer.worldmodel.attention.softmax import Softmax

KINDS: dict[str, type[AttentionKernel]] = {
    "softmax": Softmax,
    "coherent": Coherent,
    "born": Born,
    "circuit": Circuit,
    "sampled": Sampled,
    "uniform": Uniform,
    "random_keys": RandomKeys,
}


def make_kind(name: str, heads: int, width: int, **settings: Any) -> AttentionKernel:
    """The kind called `name` for h heads of d features; `settings` are those of its class.

    Raises ValueError for an unknown name or setting, or a wrong value.
    """
    if name not in KINDS:
        raise ValueError(f"attention kind {name!r} is unknown: choose one of {', '.join(KINDS)}")
    known = list(inspect.signature(KINDS[name]).parameters)[2:]
    wrong = sorted(set(settings) - set(known))
    if wrong:
        raise ValueError(
            f"{name} attention has no {', '.join(wrong)}: it has {', '.join(known) or 'no settings'}"
        )
    return KINDS[name](heads, width, **settings)

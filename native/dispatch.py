"""The door to C: chooses, call by call, between a kernel and the torch code that defines what it computes.

`native` holds one module per kernel with three functions: `reference` is the definition in torch, on every
device and in every precision, with gradients recorded by autograd; `call` computes the same in C;
`supports` says for which arguments it can. Callers write `native.mlp(x, layers)` and never ask whether C is
there. Without a compiler, on a GPU, in float64 and under torch.compile the reference runs: a compiled
function sees no C, and `fullgraph=True` holds.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Generic, ParamSpec, TypeVar

import torch
from torch import Tensor

from qdreamer.native.library import load_library

P = ParamSpec("P")
R = TypeVar("R")

_on = False
_switched_off: frozenset[str] = frozenset()

KERNELS: dict[str, "Kernel[Any, Any]"] = {}
"""All kernels by name."""


class Kernel(Generic[P, R]):
    """A function of two implementations: `call` where kernels are on and it `supports` the arguments."""

    def __init__(
        self, name: str, reference: Callable[P, R], call: Callable[P, R], supports: Callable[P, bool]
    ) -> None:
        self.name, self.reference, self.call, self.supports = name, reference, call, supports
        KERNELS[name] = self

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        # A compiler of torch programs cannot look into C, but makes fast code of the reference itself.
        wanted = _on and self.name not in _switched_off and not torch.compiler.is_compiling()
        if wanted and self.supports(*args, **kwargs):
            return self.call(*args, **kwargs)
        return self.reference(*args, **kwargs)


def use(wanted: bool, announce: Callable[[], None] = lambda: None) -> None:
    """Switch all kernels on or off for this process. Raises CompileError where they cannot be made.

    `announce` is called if they must be compiled first.
    """
    global _on
    _on = False
    if wanted:
        load_library(announce)
        _on = True


def on() -> bool:
    """Return whether kernels are in use: for a run's report, never for a choice."""
    return _on


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Let the references of these kernels run meanwhile, to test them or to measure their worth.

    Raises KeyError for a name that no kernel has.
    """
    global _switched_off
    before = _switched_off
    _switched_off = before | {KERNELS[name].name for name in names}
    try:
        yield
    finally:
        _switched_off = before


def fits(*tensors: Tensor | None) -> bool:
    """Return whether C can read these tensors: float32 on a CPU, no gaps within a row."""
    return all(
        x is None or (x.is_cpu and x.dtype == torch.float32 and (x.dim() == 0 or x.stride(-1) == 1))
        for x in tensors
    )


class Function:
    """A function of the library by its name and the types of its arguments; looked up when first called."""

    def __init__(self, name: str, *arguments: Any) -> None:
        self.name, self.arguments = name, arguments

    @cached_property
    def _function(self) -> Callable[..., None]:
        function = load_library()[self.name]
        function.argtypes, function.restype = self.arguments, None
        return function

    def __call__(self, *arguments: Any) -> None:
        self._function(*arguments)

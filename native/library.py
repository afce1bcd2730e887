"""The compiled library: its functions and structs, as ctypes sees them, checked against C when it loads."""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from qdreamer.native.compiler import load, no_op

INT32, INT64, FLOAT, POINTER = ctypes.c_int32, ctypes.c_int64, ctypes.c_float, ctypes.c_void_p

SOURCES = Path(__file__).parent / "c"

_library: ctypes.CDLL | None = None


class LayoutError(RuntimeError):
    """A struct of Python's and its counterpart in C do not lie alike in memory."""


class TENSOR:
    """An argument that C sees as a pointer to a tensor's first number, or as null for None."""

    @classmethod
    def from_param(cls, tensor: Tensor | None) -> ctypes.c_void_p:
        return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


class Struct(ctypes.Structure):
    """A struct that C has too: `class Scan(Struct, name="scan")`. C lists its members by LAYOUT(scan, …)."""

    known: ClassVar[dict[str, type["Struct"]]] = {}

    def __init_subclass__(cls, name: str, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Struct.known[name] = cls


class Function:
    """A function of the library by its name and the types of its arguments; looked up when first called."""

    def __init__(self, name: str, *arguments: Any, result: Any = None) -> None:
        self.name, self.arguments, self.result = name, arguments, result
        self._function: Callable[..., Any] | None = None

    def __call__(self, *arguments: Any) -> Any:
        if self._function is None:
            function = load_library()[self.name]
            function.argtypes, function.restype = self.arguments, self.result
            self._function = function
        return self._function(*arguments)


def load_library(announce: Callable[[], None] = no_op) -> ctypes.CDLL:
    """Return the library of native/c, compiled if need be. Raises CompileError, LayoutError.

    Gradients end in C what began there, also after the kernels were switched off.
    """
    global _library
    if _library is None:
        files = sorted(file for file in SOURCES.iterdir() if file.suffix in (".c", ".h"))
        library = load(files, announce)
        for name, struct in Struct.known.items():
            check_layout(library, name, struct)
        _library = library
    return _library


def check_layout(library: ctypes.CDLL, name: str, struct: type[ctypes.Structure]) -> None:
    """Compare size and offsets of a struct with the table that C made. Raises LayoutError."""
    ours = [ctypes.sizeof(struct), *(getattr(struct, field[0]).offset for field in struct._fields_), -1]
    theirs = list((INT64 * len(ours)).in_dll(library, f"{name}_layout"))
    if ours != theirs:
        raise LayoutError(f"struct {name}: size and offsets are {ours} in Python, {theirs} in C")

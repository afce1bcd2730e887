"""Fused element-wise kernels for a CPU (native/c/*.c), where a C compiler is at hand.

torch makes one pass over memory for each operation; between two matrix products that is more time
than the product takes. Each function here is one pass over the rows. They are off until `use(True)`;
`fit` says whether they are on and know the tensors at hand, and otherwise the torch code beside
every call does the same to rounding. They record no gradients.
"""

import ctypes
from functools import cache

from torch import Tensor

from qdreamer.native import dispatch
from qdreamer.native.library import load_library

INTEGER, LONG, FLOAT, POINTER = ctypes.c_int32, ctypes.c_int64, ctypes.c_float, ctypes.c_void_p
SIGNATURES = {
    "rollout": [POINTER],
    "pack": [LONG, LONG, POINTER, POINTER],
    "share_past": [POINTER],
    "phase_table": [LONG, LONG, LONG, POINTER, POINTER],
    "imagine": [*[POINTER] * 3, LONG, POINTER, LONG],
    "imagine_scratch": [POINTER],
    "block_room": [POINTER],
    "block": [POINTER],
    "block_backward": [POINTER],
}
RESULTS = {"imagine_scratch": LONG}

use, on = dispatch.use, dispatch.on


def fit(x: Tensor) -> bool:
    """Whether the kernels are on and know such tensors: float32 on a CPU, rows without gaps inside."""
    return on() and dispatch.fits(x)


@cache
def functions() -> ctypes.CDLL:
    """The library. Gradients end with it what began with it, also after it was switched off."""
    library = load_library()
    for name, arguments in SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, RESULTS.get(name)
    return library

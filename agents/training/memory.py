"""What takes time in an update and is neither arithmetic nor calls: memory.

Every update allocates and frees the same large tensors. By default glibc maps the large ones
afresh each time, and the kernel fills in their pages one by one: an update at 1M took 670 ms when
this was tried, and 569 with the memory kept. And Python's collector of garbage looks again and again
through all that set-up has made, which stays.
"""

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # malloc.h


def keep_freed_memory() -> None:
    """Keep freed memory for the next update, in this process from now on. Without glibc: do nothing."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return
    mallopt(M_MMAP_MAX, 0)  # all tensors from the heap
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(M_TOP_PAD, 64 * 2**20)


@contextmanager
def set_up_is_no_garbage() -> Iterator[None]:
    """Let Python's collector leave alone, meanwhile, what there is already."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()

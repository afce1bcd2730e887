"""One array whose pages are files: chunks that lie side by side in memory's addresses, wherever on disk."""

import ctypes
import functools
import mmap
import os
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

ALIGNED = 65_536  # bytes that a chunk is a multiple of: the largest page of common machines
POSSIBLE = os.name == "posix"
_FIXED = 0x10  # MAP_FIXED of Linux, macOS and the BSDs; Python's mmap cannot choose an address
_WILL_NEED = 3  # MADV_WILLNEED, likewise
_FAILED = ctypes.c_void_p(-1).value


class Window:
    """`count` places of `size` bytes, a multiple of ALIGNED. Each shows zeros, or a file once it is `show`n.

    Nothing is read before it is looked at, and what was read is the system's to drop: such pages count as the
    files', not as the process's own memory. Raises OSError.
    """

    def __init__(self, count: int, size: int) -> None:
        self._count, self._size = count, size
        self._address = _map(None, count * size, mmap.MAP_PRIVATE | mmap.MAP_ANON, -1)
        weakref.finalize(self, _libc().munmap, ctypes.c_void_p(self._address), ctypes.c_size_t(count * size))

    def show(self, place: int, file: int) -> None:
        """Let a place show a file of `size` bytes, whose descriptor may be closed afterwards."""
        _map(self._address + place * self._size, self._size, mmap.MAP_SHARED | _FIXED, file)

    def expect(self, begins: NDArray[np.int64], size: int) -> None:
        """Have the system read `size` bytes from each of the offsets (n,), where they are not in memory."""
        for begin in (begins // mmap.PAGESIZE * mmap.PAGESIZE).tolist():
            length = min(size + mmap.PAGESIZE, self._count * self._size - begin)
            _libc().madvise(ctypes.c_void_p(self._address + begin), ctypes.c_size_t(length), _WILL_NEED)

    def array(self, dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
        """Return all places as one array, which cannot be written to and lives as long as the window."""
        memory = (ctypes.c_ubyte * (self._count * self._size)).from_address(self._address)
        array: NDArray[Any] = np.ndarray(shape, dtype, memoryview(memory))
        array.flags.writeable = False
        return array


def _map(address: int | None, size: int, flags: int, file: int) -> int:
    call = _libc().mmap
    call.restype = ctypes.c_void_p
    call.argtypes = [
        ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long
    ]  # fmt: skip
    found = call(address, size, mmap.PROT_READ, flags, file, 0)
    if found == _FAILED:
        error = ctypes.get_errno()
        raise OSError(error, f"replay cannot map its rows: {os.strerror(error)}")
    return int(found)


@functools.cache
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)

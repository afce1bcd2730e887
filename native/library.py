"""The library of native/c: compiled once on each machine by its own compiler, loaded, its structs compared.

It is kept under ~/.cache/qdreamer (XDG_CACHE_HOME if set), named for what it was made from:
source, compiler, flags and processor. It is sealed (`configs.sealed_file`), so that nobody meets half
of one: a library that is cut short would end the process without a word.

It is called by ctypes. torch's `cpp_extension` needs a C++ compiler, ninja and Python's headers where any C
compiler serves here, and compiles for a minute. Operators registered by `torch.library` would serve
torch.compile alone, which makes better code of the reference than of an opaque call; each needs a fake and
an autograd implementation, and costs 2 to 3 µs more a call (11.5 against 8.9 µs, measured for RMSNorm with
SiLU of 16 rows when that was a call). So nothing is registered.
"""

import ctypes
import os
import platform
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

from qdreamer.configs.sealed_file import DamagedError, verify, write_sealed

SOURCES = Path(__file__).parent / "c"

INT32, INT64, FLOAT, POINTER = ctypes.c_int32, ctypes.c_int64, ctypes.c_float, ctypes.c_void_p

FLAGS = ["-std=gnu11", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fPIC"]
THREADS: tuple[list[str], ...] = ["-fopenmp"], ["-fopenmp-simd"], []
"""Threads are torch's own: the library leaves them open and finds them in what torch has loaded.
Where that does not succeed, it runs on one thread."""


LIMIT = 60.0
"""Seconds that the compiler has for a library."""
ANSWER = 10.0
"""Seconds in which it must say which version it is."""

_library: ctypes.CDLL | None = None


class CompileError(RuntimeError):
    """No library can be made here; the message says why in one line."""


class LayoutError(RuntimeError):
    """A struct of Python's and its counterpart in C do not lie alike in memory."""


class Struct(ctypes.Structure):
    """A struct that C has too: `class Scan(Struct, name="scan")`. C lists its members by LAYOUT(scan, …)."""

    known: ClassVar[dict[str, type["Struct"]]] = {}

    def __init_subclass__(cls, name: str, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Struct.known[name] = cls


def members(kind: Any, names: str) -> list[tuple[str, Any]]:
    """Return the members of a struct that have one type."""
    return [(name, kind) for name in names.split()]


def load_library(announce: Callable[[], None] = lambda: None) -> ctypes.CDLL:
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


def load(sources: list[Path], announce: Callable[[], None] = lambda: None) -> ctypes.CDLL:
    """Return the library of all C files of `sources`; the others are what they include. Raises CompileError.

    `announce` is called before anything is compiled, which takes some ten seconds.
    """
    compiler = find_compiler()
    deadline, error = time.monotonic() + LIMIT, ""
    for threads in THREADS:
        flags = [*FLAGS, *threads]
        try:
            cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
            path = cache / "qdreamer" / f"{fingerprint(sources, compiler, flags)}.so"
            if not _is_sound(path):
                announce()
                build(sources, compiler, flags, path, deadline)
            return ctypes.CDLL(str(path))
        except subprocess.CalledProcessError as failure:
            error = failure.stderr.strip().partition("\n")[0]
        except subprocess.TimeoutExpired as failure:
            waited = time.monotonic() - deadline + LIMIT
            raise CompileError(f"{compiler} was stopped after {waited:.0f} s") from failure
        except (OSError, RuntimeError) as failure:  # or there is no home
            error = str(failure)
    raise CompileError(f"{compiler} made no library: {error or 'it says nothing'}")


def _is_sound(path: Path) -> bool:
    """Tell whether the library is there, whole."""
    try:
        verify(path)
    except (FileNotFoundError, DamagedError):
        return False
    return True


def find_compiler() -> str:
    """Return $CC, or the first C compiler on the path. Raises CompileError."""
    for name in (os.environ.get("CC"), "cc", "gcc", "clang"):
        if name and (found := shutil.which(name)):
            return found
    raise CompileError("no C compiler (cc, gcc, clang) is installed")


def fingerprint(sources: list[Path], compiler: str, flags: list[str]) -> str:
    """Return a name for everything that the machine code depends on."""
    version = _ask([compiler, "--version"], ANSWER)
    texts = [source.read_text() for source in sorted(sources)]
    parts = [*texts, version, *flags, platform.platform(), processor()]
    return sha256("\0".join(parts).encode()).hexdigest()[:16]


def processor() -> str:
    """Return what the first processor is and can do."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor()
    first = info.read_text().partition("\n\n")[0]
    return "\n".join(line for line in first.splitlines() if line.startswith(("model", "flags", "Features")))


def _ask(command: list[str], seconds: float, environment: dict[str, str] | None = None) -> str:
    """Return what a command prints. Raises CalledProcessError, TimeoutExpired or OSError.

    What runs too long goes with all that it has started, which would keep its pipes open.
    """
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdout=pipe, stderr=pipe, text=True, env=environment, start_new_session=True
    ) as process:
        try:
            out, error = process.communicate(timeout=max(seconds, 0.0))
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, out, error)
    return out


def build(sources: list[Path], compiler: str, flags: list[str], path: Path, deadline: float) -> None:
    """Compile and link to `path`. Raises CalledProcessError, TimeoutExpired or OSError."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=path.parent) as directory:
        environment = os.environ | {"TMPDIR": directory}

        def run(*arguments: str) -> None:
            _ask([compiler, *arguments], deadline - time.monotonic(), environment)

        def compiled(source: Path) -> str:
            run(*flags, "-c", str(source), "-o", made := f"{directory}/{source.stem}.o")
            return made

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(compiled, (source for source in sources if source.suffix == ".c")))
        linked = Path(directory) / "library.so"
        # Linked without -fopenmp: that would bring a second pool of threads beside torch's.
        run("-shared", *objects, "-o", str(linked), "-lm")
        content = linked.read_bytes()
        write_sealed(path, lambda file: file.write(content))

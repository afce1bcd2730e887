"""Files that are verified before they are believed, and that a kill leaves whole.

A file is written beside its place, synced and renamed: at any instant the old or the new one is there. The
last 32 bytes of a sealed file are the SHA-256 of all before them; readers that go by a format's own tables
(torch's archives, shared libraries) do not notice them. JSON has the hash of its other entries as `sha256`.
A file that only grows has no seal: a sealed one names its length so far, and the CRC-32 of so many bytes.
"""

import contextlib
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

SIZE = hashlib.sha256().digest_size
Sum = tuple[int, int]
"""Bytes from a file's beginning, and their CRC-32: it goes on with every write, and is faster than a hash."""
_ENTRY = "sha256"


class DamagedError(ValueError):
    """A file whose content is not what was written; the message says so in a few words."""


def write_sealed(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Replace a file by what `write` writes, and its hash. Raises OSError, and leaves nothing half made."""
    with _replacing(path) as file:
        noting = _Noting(file)
        try:
            write(noting)  # type: ignore[arg-type]
        except Exception:
            if noting.error is None:
                raise
            raise noting.error from None
        file.flush()
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").digest()  # type: ignore[arg-type]
        file.seek(0, os.SEEK_END)
        file.write(digest)


class _Noting:
    """A file that keeps the first error of writing: torch turns "no space left" into thirty lines."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def verify(path: Path) -> None:
    """Raises DamagedError unless the file is as `write_sealed` left it, OSError if it cannot be read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        left = os.fstat(file.fileno()).st_size - SIZE
        if left < 0:
            raise DamagedError("it is cut short")
        while left:
            block = file.read(min(left, 1 << 20))
            if not block:
                raise DamagedError("it is cut short")
            digest.update(block)
            left -= len(block)
        if file.read() != digest.digest():
            raise DamagedError("its content is not what was written")


def verify_beginning(path: Path, known: Sum) -> None:
    """Raises DamagedError unless the file begins with as many bytes of this sum, OSError."""
    left, wanted = known
    found = 0
    with path.open("rb", buffering=0) as file:
        while left:
            block = file.read(min(left, 1 << 20))
            if not block:
                raise DamagedError("it is cut short")
            found = zlib.crc32(block, found)
            left -= len(block)
    if found != wanted:
        raise DamagedError("its content is not what was written")


def write_json(path: Path, values: dict[str, Any], lasting: bool = False) -> None:
    """Replace a JSON file. `lasting` waits for the disk, so that a power failure loses nothing."""
    text = json.dumps({**values, _ENTRY: _hash(values)}, indent=1)
    with _replacing(path, lasting) as file:
        file.write(text.encode())


def read_json(path: Path) -> dict[str, Any]:
    """Return what `write_json` wrote, or another file's object that has no hash.

    Raises DamagedError for anything else, OSError if the file cannot be read.
    """
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DamagedError("it is no JSON") from error
    if not isinstance(values, dict):
        raise DamagedError("it is no JSON object")
    wanted = values.pop(_ENTRY, None)
    if wanted is not None and wanted != _hash(values):
        raise DamagedError("its content is not what was written")
    return values


def _hash(values: dict[str, Any]) -> str:
    # Through JSON once, as a reader has them: there tuples are lists and keys are words.
    return hashlib.sha256(json.dumps(json.loads(json.dumps(values)), sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def _replacing(path: Path, lasting: bool = True) -> Iterator[BinaryIO]:
    # Processes that write the same file at once do not meet in one half-made file.
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w+b") as file:
            yield file
            file.flush()
            if lasting:
                os.fsync(file.fileno())
    except Exception:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    temporary.replace(path)
    if lasting and os.name == "posix":  # the rename itself must reach the disk too
        sync(path.parent)


def make_synced(folder: Path) -> None:
    """Make a folder, up to three levels below one that exists, whose name is on the disk. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    for parent in folder.parents[:3]:
        sync(parent)


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

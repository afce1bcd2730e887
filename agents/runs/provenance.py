"""Which code ran, on what: so that runs of different versions are not compared by accident."""

import functools
import hashlib
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
ROOMS = ("agents", "envs", "native", "quantum", "worldmodel")  # what a run executes
LIBRARIES = ("torch", "numpy", "gymnasium", "pennylane", "qiskit", "qiskit-aer", "qiskit-ibm-runtime")


@functools.cache
def provenance() -> dict[str, Any]:
    """Return versions of all that decides what is learned, the commit, and the machine."""
    return {
        "versions": {
            "code": code(),
            "python": platform.python_version(),
            **{name: _version(name) for name in LIBRARIES},
        },
        "commit": commit(),
        "machine": {"processor": processor(), "cores": os.cpu_count(), "system": platform.system()},
    }


def code() -> str:
    """Hash the rooms' sources: the hash changes with every edit that a run could notice, unlike a commit."""
    digest = hashlib.sha256()
    files = (path for room in ROOMS for path in (ROOT / room).rglob("*"))
    for path in sorted(path for path in files if path.suffix in (".py", ".c", ".h")):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def commit() -> str | None:
    """Return the commit that is checked out, with '+' for edits on top.

    None outside a checkout: an installed wheel may lie in a repository that is not ours.
    """
    if not (ROOT / ".git").exists():
        return None
    try:
        return _git("rev-parse", "--short=12", "HEAD") + "+" * bool(_git("status", "--porcelain", "-uno"))
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def processor() -> str:
    """Return the processor's name, as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()

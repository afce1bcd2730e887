"""Detect Intel's processors: on others torch's MKL is slow, so that products go to oneDNN there."""

from pathlib import Path


def is_intel(cpu_info: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether the first processor names Intel as its vendor. False where none tells (no Linux)."""
    return cpu_info.exists() and "GenuineIntel" in cpu_info.read_text()


INTEL = is_intel()

"""Whether replay's rows fit, and which lie in files of the run instead of in memory (`replay.mapped`)."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qdreamer.agents.replay.disk.chunks import rows_of_chunk
from qdreamer.agents.replay.disk.window import POSSIBLE
from qdreamer.agents.runs.config import Config
from qdreamer.configs.schema import ConfigError

FOLDER = "replay"
SHARE = 0.5  # of the free memory, that full rings may take before large entries go to files
LARGE = 1024  # bytes of a row; smaller entries go to files only if there are no others
JOURNAL = 3  # the journal's files, over the rows that it follows: an old chain, and the one that replaces it


class Fields(NamedTuple):
    """Bytes of one row."""

    entries: dict[str, int]  # of observations
    rest: int

    @property
    def large(self) -> list[str]:
        return [name for name, size in self.entries.items() if size >= LARGE]


def choose_files(
    config: Config, directory: Path, fields: Mapping[str, tuple[tuple[int, ...], Any]], entries: list[str]
) -> list[str]:
    """Return which of `entries`, fields of a row, are to lie in files, as this machine is now.

    A run that has such files goes on with them. Counted are the rows that the run can store: no more than
    twice its steps, as an episode of one step has two rows. Raises ConfigError when they fit nowhere.
    """
    sizes = {name: int(np.prod(shape)) * np.dtype(dtype).itemsize for name, (shape, dtype) in fields.items()}
    row = Fields(
        {name: sizes[name] for name in entries}, sum(v for k, v in sizes.items() if k not in entries)
    )
    capacity, free = config.replay.capacity, free_memory()
    wanted = config.replay.mapped == "true" or (directory / FOLDER).is_dir()
    if config.replay.mapped == "auto" and POSSIBLE and row.large:
        wanted = wanted or capacity * sum(sizes.values()) > SHARE * free
    if wanted and not POSSIBLE:
        raise ConfigError("replay.mapped=true needs Linux or macOS: use replay.mapped=false")
    chosen = (row.large or list(row.entries)) if wanted else []
    in_files = sum(row.entries[name] for name in chosen)
    in_memory = sum(sizes.values()) - in_files
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) / int(os.environ.get("WORLD_SIZE", "1"))
    rows = min(capacity, 2 * config.steps) if config.replay.initial is None else capacity
    _check(
        rows, in_memory * here, free, "memory", "" if wanted or not row.large else ", or replay.mapped=true"
    )
    if chosen:
        envs = config.env.num_envs
        taken = sum(
            row.entries[name] * _rows_in_chunks(rows, capacity // envs, envs, row.entries[name])
            for name in chosen
        )
        each = taken / rows + JOURNAL * (in_memory + 8)
        _check(rows, each, _free_disk(directory), f"the disk of {directory}", ", or runs=… elsewhere")
    return chosen


def _rows_in_chunks(rows: int, size: int, envs: int, row_bytes: int) -> int:
    """Return how many rows lie in files at most, with chunks that have begun, or are not free yet."""
    chunk = rows_of_chunk(size, row_bytes)
    return envs * (-(-rows // (envs * chunk)) + 1) * chunk


def _check(rows: int, row_bytes: float, free: int, place: str, otherwise: str) -> None:
    if rows * row_bytes > free:
        fitting = int(0.9 * free / row_bytes)
        raise ConfigError(
            f"replay.capacity: {rows:,} rows take {show_bytes(rows * row_bytes)}, and {place} has "
            f"{show_bytes(free)}: use replay.capacity={fitting // 100 * 100}{otherwise}"
        )


def free_memory() -> int:
    """Return the bytes of memory that this process may still take, about."""
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):  # no Linux
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if POSSIBLE else 2**63
    for file in ("memory.max", "memory/memory.limit_in_bytes"):  # of the control group, if it has a limit
        limit = Path("/sys/fs/cgroup") / file
        if limit.is_file() and (text := limit.read_text().strip()).isdigit():
            free = min(free, int(text))
    return free


def _free_disk(directory: Path) -> int:
    """Return the bytes that the run's files may have, those that they have included."""
    there = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    own = sum(path.stat().st_blocks * 512 for path in (directory / FOLDER).rglob("*.bin"))
    return shutil.disk_usage(there).free + own


def show_bytes(count: float) -> str:
    """Return a number of bytes in GB or MB."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"

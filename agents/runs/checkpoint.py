"""Checkpoints: written atomically, loaded with weights only (no pickled code).

One process writes one file. With several ranks each writes its shard of what only it has (replay and
environments) into a file of its own, named for the step, before rank 0 replaces the checkpoint that names
them: a kill at any instant leaves a checkpoint all of whose shards exist.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from qdreamer.agents.distributed.ranks import SINGLE_PROCESS, SingleProcess
from qdreamer.configs.console import one_line

FORMAT = 3
NAME = "checkpoint.pt"


class CheckpointError(RuntimeError):
    """A checkpoint that is missing, damaged or of another format; one line with the fix."""


def save(
    directory: Path, state: dict[str, Any], shard: dict[str, Any], ranks: SingleProcess = SINGLE_PROCESS
) -> None:
    """Replace the directory's checkpoint; all ranks call this.

    Args:
        state: what is equal on all ranks, with the `step`; rank 0's is written.
        shard: what only this rank has.
    """
    if ranks.size == 1:
        _write(directory / NAME, {**state, **shard})
        return
    names = [f"shard_{rank}_step_{state['step']}.pt" for rank in range(ranks.size)]
    with ranks.collective_errors():
        _write(directory / names[ranks.rank], shard)
    if ranks.rank == 0:
        _write(directory / NAME, {**state, "shards": names})
        for old in {path.name for path in directory.glob("shard_*.pt*")} - set(names):
            (directory / old).unlink()


def exists(directory: Path) -> bool:
    """Tell whether a run can go on from a checkpoint there."""
    return (directory / NAME).exists()


def load(directory: Path) -> dict[str, Any]:
    """Read the directory's checkpoint, without its shards, onto the CPU. Raises CheckpointError."""
    path = directory / NAME
    if not path.exists():
        raise CheckpointError(f"no checkpoint in {directory}: is it a run directory?")
    state: dict[str, Any] = _read(path)
    found = state.get("format") if isinstance(state, dict) else None
    if found != FORMAT:
        raise CheckpointError(
            f"{path} has checkpoint format {found}, and this version reads format {FORMAT}: "
            "start the run afresh elsewhere"
        )
    return state


def load_shard(
    directory: Path, state: dict[str, Any], ranks: SingleProcess = SINGLE_PROCESS
) -> dict[str, Any]:
    """Read this rank's shard of a checkpoint. Raises CheckpointError, also for another number of ranks."""
    names = state.get("shards", [NAME])
    if len(names) != ranks.size:
        fix = "python" if len(names) == 1 else f"torchrun --nproc-per-node={len(names)}"
        raise CheckpointError(
            f"{directory} holds a run on {len(names)} process{'es' * (len(names) > 1)}, not {ranks.size}: "
            f"go on with {fix} train.py …"
        )
    return state if ranks.size == 1 else _read(directory / names[ranks.rank])


@contextmanager
def translate_load_errors(directory: Path) -> Iterator[None]:
    """Raise CheckpointError when a loaded state does not fit where this context puts it."""
    try:
        yield
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{directory / NAME} does not fit this run "
            f"({one_line(error)[:160]}): was it made by another version?"
        ) from error


def _write(path: Path, state: dict[str, Any]) -> None:
    """Replace a file. A kill at any instant leaves the old or the new one."""
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("wb") as file:
        torch.save({"format": FORMAT, **state}, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    if os.name == "posix":  # the rename itself must reach the disk too
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _read(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged files; none of them names a fix
        raise CheckpointError(
            f"{path} is damaged ({type(error).__name__}) and cannot be used; "
            f"moving {path.parent / NAME} away lets the run start afresh"
        ) from error

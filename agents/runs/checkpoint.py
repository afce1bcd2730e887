"""Checkpoints: one file, written atomically, loaded with weights only (no pickled code)."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

FORMAT = 1
NAME = "checkpoint.pt"


class CheckpointError(RuntimeError):
    """A checkpoint that is missing, damaged or of another format; one line with the fix."""


def save(directory: Path, state: dict[str, Any]) -> None:
    """Replace the directory's checkpoint. A kill at any instant leaves the old or the new one."""
    temporary = directory / f"{NAME}.tmp"
    with temporary.open("wb") as file:
        torch.save({"format": FORMAT, **state}, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(directory / NAME)
    if os.name == "posix":  # the rename itself must reach the disk too
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def exists(directory: Path) -> bool:
    return (directory / NAME).exists()


def load(directory: Path) -> dict[str, Any]:
    """The directory's checkpoint, all of it on the CPU. Raises CheckpointError."""
    path = directory / NAME
    if not path.exists():
        raise CheckpointError(f"no checkpoint in {directory}: is it a run directory?")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged files; none of them names a fix
        raise CheckpointError(
            f"{path} is damaged ({type(error).__name__}) and cannot be used; "
            "moving it away lets the run start afresh"
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} has another checkpoint format than {FORMAT}: start the run afresh elsewhere"
        )
    return state


@contextmanager
def translate_load_errors(directory: Path) -> Iterator[None]:
    """Where a loaded state is put in place. Raises CheckpointError when it does not fit."""
    try:
        yield
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{directory / NAME} does not fit this run "
            f"({' '.join(str(error).split())[:160]}): was it made by another version?"
        ) from error

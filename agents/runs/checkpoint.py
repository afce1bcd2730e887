"""Checkpoints: the last two, sealed (`configs.sealed_file`), loaded with weights only (no pickled code).

A file whose bytes are not those that were written is never loaded: the one before takes its place. One
process writes one file. With several ranks each writes its shard of what only it has (replay and
environments) into a file of its own, named for the step, before rank 0 replaces the checkpoint that names
them: a kill at any instant leaves a checkpoint all of whose shards exist. Replay's files only grow: a
checkpoint names them and the length that it needs, with a sum over so many bytes.
"""

import math
import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from qdreamer.agents.distributed.ranks import SINGLE_PROCESS, SingleProcess
from qdreamer.configs.console import one_line
from qdreamer.configs.sealed_file import DamagedError, Sum, verify, verify_beginning, write_sealed
from qdreamer.envs.edge.guard import EnvError

FORMAT = 5
SEALED = 4  # the first format whose files are sealed
READERS = 4  # threads
NAME, PREVIOUS, DAMAGED = "checkpoint.pt", "checkpoint.previous.pt", "checkpoint.damaged.pt"
BEST = "best.pt"  # the agent alone, as it was at its best evaluation


class CheckpointError(RuntimeError):
    """A checkpoint that is missing, damaged or of another format; one line with the fix."""


def save(
    directory: Path, state: dict[str, Any], shard: dict[str, Any], ranks: SingleProcess = SINGLE_PROCESS
) -> None:
    """Replace the directory's checkpoint; all ranks call this.

    Args:
        state: what is equal on all ranks, with the `step`; rank 0's is written.
        shard: what only this rank has. Its `files`, if there, are what it needs of others in the directory,
            (bytes, sum) by name; a run that goes on finds them verified.
    """
    if ranks.size == 1:
        _replace(directory, {**state, **shard})
        return
    names = [f"shard_{rank}_step_{state['step']}.pt" for rank in range(ranks.size)]
    with ranks.collective_errors():
        _write(directory / names[ranks.rank], shard)
    if ranks.rank == 0:
        _replace(directory, {**state, "shards": names})
        kept = {*names, *_kept(directory / PREVIOUS)}
        for old in {path.name for path in directory.glob("shard_*.pt*")} - kept:
            (directory / old).unlink()


def rewrite(directory: Path, state: dict[str, Any]) -> None:
    """Replace the newest checkpoint by a state that `restore` returned, as it was or mended."""
    _write(directory / NAME, state)


def save_best(
    directory: Path, origin: dict[str, str], step: int, score: float, agent: dict[str, Any]
) -> None:
    """Keep an agent, of a run with such an `origin`, that evaluations found better than all before."""
    state = {"origin": origin, "step": step, "return": score, "learner": {"agent": agent}}
    _write(directory / BEST, state)


def load_best(directory: Path) -> dict[str, Any]:
    """Read what `save_best` kept, onto the CPU. Raises CheckpointError."""
    path = directory / BEST
    try:
        verify(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"no {BEST} in {directory}: it is kept from the first evaluation on") from error
    except DamagedError as error:
        raise CheckpointError(f"{path} {error}: leave out --best") from error
    state: dict[str, Any] = _read(path)
    _check_format(path, state)
    return state


def exists(directory: Path) -> bool:
    """Tell whether a run can go on from a checkpoint there."""
    return any((directory / name).exists() for name in (NAME, PREVIOUS))


def what_is_safe(directory: Path) -> str:
    """Say, for a run that could not write, what it finds when it is started again."""
    if not directory.is_dir():
        return "the run's folder is gone, and nothing of the run is left"
    if not exists(directory):
        return "nothing was saved yet"
    return "the last checkpoint is kept, and the same command goes on from it"


def load(directory: Path) -> dict[str, Any]:
    """Read the newest sound checkpoint, without its shards, onto the CPU. Raises CheckpointError."""
    path = _newest_sound(directory)
    state: dict[str, Any] = _read(path)
    _check_format(path, state)
    return state


def _check_format(path: Path, state: Any) -> None:
    found = state.get("format") if isinstance(state, dict) else None
    if found != FORMAT:
        raise CheckpointError(
            f"{path} has checkpoint format {found}, and this version reads format {FORMAT}: "
            "start the run afresh elsewhere"
        )


def restore(directory: Path, ranks: SingleProcess = SINGLE_PROCESS) -> dict[str, Any]:
    """`load`, for a run that goes on: a damaged file makes room for the one before, and is kept aside."""
    with ranks.collective_errors():
        for half in directory.glob("*.tmp") if ranks.rank == 0 else ():  # of a save that was killed
            half.unlink()
        if ranks.rank == 0 and _newest_sound(directory, with_files=True).name == PREVIOUS:
            if (directory / NAME).exists():
                (directory / NAME).replace(directory / DAMAGED)
            (directory / PREVIOUS).replace(directory / NAME)
    ranks.maximum(0)  # waits for rank 0
    return load(directory)


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


def check_origin(directory: Path, state: dict[str, Any], origin: dict[str, str], resume: bool = True) -> None:
    """Compare what made a checkpoint, its `origin`, with the run that it is to serve.

    Raises CheckpointError for other settings; other code is warned of where training goes on.
    """
    made = state.get("origin")
    if not isinstance(made, dict) or made.get("settings") != origin["settings"]:
        raise CheckpointError(
            f"the checkpoint in {directory} was made with other settings than its config.yaml: "
            "it belongs to another run"
        )
    if resume and made.get("code") != origin["code"]:
        print(
            f"warning: {directory} was begun by another version of the code ({made.get('code')}, now "
            f"{origin['code']}): it may differ from an unbroken run",
            file=sys.stderr,
        )


def check_counters(state: dict[str, Any], stride: int) -> None:
    """Raises ValueError for a state that no run can have. `stride`: environment steps of an iteration."""
    step, observer = state["step"], state["observer"]
    positions, solved = observer["log_offset"], observer["solved_at"]
    sound = {
        "step": _counts(step) and step % stride == 0,
        "credit": isinstance(state["credit"], float) and 0.0 <= state["credit"] < 1.0,
        "updates": _counts(state["learner"]["updates"]),
        "seconds": isinstance(observer["seconds"], float) and 0.0 <= observer["seconds"] < math.inf,
        "evaluated_at": _counts(observer["evaluated_at"]) and observer["evaluated_at"] <= step,
        "solved_at": solved is None or (_counts(solved) and solved <= step),
        "log_offset": isinstance(positions, dict) and all(_counts(place) for place in positions.values()),
    }
    if wrong := [name for name, right in sound.items() if not right]:
        raise ValueError(f"no run has such a {' and such a '.join(wrong)}")


def _counts(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


@contextmanager
def translate_load_errors(directory: Path) -> Iterator[None]:
    """Raise CheckpointError when a loaded state does not fit where this context puts it."""
    try:
        yield
    except EnvError:  # the environment's own fault, which names itself
        raise
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{directory / NAME} does not fit this run "
            f"({one_line(error)[:160]}): was it made by another version?"
        ) from error


def _replace(directory: Path, state: dict[str, Any]) -> None:
    """Write the newest checkpoint, and keep the one before under its other name."""
    now, previous, aside = directory / NAME, directory / PREVIOUS, directory / f"{PREVIOUS}.tmp"
    aside.unlink(missing_ok=True)
    # One file under both names: a kill came between here and the new one.
    if now.exists() and not (previous.exists() and now.samefile(previous)):
        try:
            os.link(now, aside)
        except OSError:  # a file system without links
            shutil.copyfile(now, aside)
        aside.replace(previous)
    _write(now, state)


def _write(path: Path, state: dict[str, Any]) -> None:
    """Replace a file. A kill at any instant leaves the old or the new one."""
    checks = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)  # torch never looks at its own sums; the seal is one for all
    try:
        write_sealed(path, lambda file: torch.save({"format": FORMAT, **state}, file))
    finally:
        torch.serialization.set_crc32_options(checks)


def _newest_sound(directory: Path, with_files: bool = False) -> Path:
    """Return the newest checkpoint that is as it was written, with its shards, and `with_files` with theirs.

    Raises CheckpointError.
    """
    if not exists(directory):
        raise CheckpointError(f"no checkpoint in {directory}: is it a run directory?")
    problems = []
    for path in (directory / NAME, directory / PREVIOUS):
        file = path
        try:
            verify(path)
            for file in (directory / name for name in _shards(path)):
                verify(file)
            if with_files:
                named = list(_files(path))
                with ThreadPoolExecutor(READERS) as pool:  # the disk reads one while another's sum is taken
                    for (name, _), trouble in zip(named, pool.map(_trouble, named), strict=True):
                        if trouble is not None:
                            file = name
                            raise trouble
        except FileNotFoundError as error:
            problems.append(f"{error.filename} is missing")
        except DamagedError as error:
            _name_unsealed(path)
            problems.append(f"{file} is damaged ({error})")
        else:
            if problems:
                print(f"warning: {problems[0]}; {path} takes its place", file=sys.stderr)
            return path
    raise CheckpointError(
        f"{problems[0]} and cannot be used, and there is no sound one before it; "
        f"moving {directory / NAME} away lets the run start afresh"
    )


def _name_unsealed(path: Path) -> None:
    """Raise CheckpointError for a file of an earlier format, which had no seal; nothing of it is used."""
    with suppress(DamagedError, FileNotFoundError):
        verify(path)
        return
    try:
        state = _read(path, mmap=True)
    except CheckpointError:
        return
    if isinstance(state, dict) and isinstance(state.get("format"), int) and state["format"] < SEALED:
        _check_format(path, state)


def _shards(path: Path) -> list[str]:
    """Return the names of the files that belong to a checkpoint, without reading its tensors."""
    return list(_read(path, mmap=True).get("shards", [])) if path.exists() else []


def _files(path: Path) -> Iterator[tuple[Path, Sum]]:
    """Yield what a checkpoint and its shards need of other files."""
    for part in (path, *(path.parent / name for name in _shards(path))):
        for name, known in _read(part, mmap=True).get("files", {}).items():
            yield path.parent / name, known


def _trouble(named: tuple[Path, Sum]) -> DamagedError | FileNotFoundError | None:
    try:
        verify_beginning(*named)
    except (DamagedError, FileNotFoundError) as error:
        return error
    return None


def _kept(path: Path) -> list[str]:
    """Return the shards of the checkpoint before, none if it cannot be read any more."""
    try:
        return _shards(path)
    except CheckpointError:
        return []


def _read(path: Path, mmap: bool = False) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # torch raises many kinds for damaged files; none of them names a fix
        raise CheckpointError(
            f"{path} is damaged ({type(error).__name__}) and cannot be used; "
            f"moving {path.parent / NAME} away lets the run start afresh"
        ) from error

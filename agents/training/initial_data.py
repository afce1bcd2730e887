"""Rows that a run's replay begins with: a file of episodes, or what another run has seen."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qdreamer.agents.dreamer import Dreamer
from qdreamer.agents.interaction.collector import replay_fields
from qdreamer.agents.replay.storage import PAST, Replay, Rows
from qdreamer.agents.runs import checkpoint
from qdreamer.configs.console import one_line
from qdreamer.configs.schema import ConfigError
from qdreamer.envs.entries import field

FLAGS = ("is_first", "is_last", "is_terminal")


def fill(replay: Replay, agent: Dreamer, source: str) -> None:
    """Store all episodes of `source`, a file or a run directory, in the rings of an empty replay.

    A file is an npz archive with an array for each field of a row (N, …): `observation`, or
    `observation/NAME` for each entry; `action`, vectors (N, A), or class numbers (N,) where the action is one
    of some classes; `reward`, which came with the row's observation; `is_first`, `is_last`, `is_terminal`.
    An episode of L steps has L + 1 rows; the action of its last row counts for nothing.

    Raises ConfigError for what cannot be read, does not fit the agent or the buffer, or is no whole episodes.
    """
    if agent.ranks.size > 1:
        raise ConfigError(
            f"replay.initial={source}: a run on several processes cannot begin with data, use one"
        )
    fields = {name: kind for name, kind in replay_fields(agent).items() if name not in PAST}
    path = Path(source)
    streams = _of_run(path) if path.is_dir() else [_of_file(path)]
    rings: list[list[Rows]] = [[] for _ in range(replay.num_envs)]
    rows = [0] * replay.num_envs
    for stream in streams:
        stream = _checked(source, stream, fields, agent)
        begins = np.flatnonzero(stream["is_first"])
        for begin, end in zip(begins, [*begins[1:], len(stream["is_first"])], strict=True):
            ring = int(np.argmin(rows))
            rings[ring].append({name: values[begin:end] for name, values in stream.items()})
            rows[ring] += end - begin
    if max(rows) > replay.size:
        raise ConfigError(
            f"replay.initial={source}: {max(rows):,} rows for one of env.num_envs={len(rows)} rings, which "
            f"have room for {replay.size:,}: use a larger replay.capacity"
        )
    _store(replay, rings)
    replay.mark_strange()


def _store(replay: Replay, rings: list[list[Rows]]) -> None:
    """Add the rows of all rings, side by side."""
    columns = {
        ring: {name: np.concatenate([episode[name] for episode in episodes]) for name in episodes[0]}
        for ring, episodes in enumerate(rings)
        if episodes
    }
    blank = {name: replay.blank(name) for name in PAST}
    for row in range(max(len(column["is_first"]) for column in columns.values())):
        now = {ring: column for ring, column in columns.items() if row < len(column["is_first"])}
        values = {
            name: np.stack([column[name][row] for column in now.values()])
            for name in next(iter(now.values()))
        }
        state = {name: np.stack([value] * len(now)) for name, value in blank.items()}
        replay.add(np.fromiter(now, np.int64), values | state)


def _of_file(path: Path) -> Rows:
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("it holds a single array")
        with archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise ConfigError(f"replay.initial={path}: there is no such file or run directory") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        said = one_line(error)
        raise ConfigError(f"replay.initial={path} cannot be read as npz of plain arrays: {said}") from error


def _of_run(path: Path) -> list[Rows]:
    """Return what lies in the rings of a run's newest checkpoint, whole episodes only, oldest first."""
    if not checkpoint.exists(path):
        raise ConfigError(f"replay.initial={path} holds no checkpoint")
    state = checkpoint.load(path)
    if "replay" not in state:
        raise ConfigError(f"replay.initial={path}: a run on several processes cannot be a source")
    replay = state["replay"]
    if "chunk_rows" in replay:
        raise ConfigError(f"replay.initial={path}: rows of a run with replay.mapped lie in files of that run")
    streams, size = [], replay["size"]
    for env, added in enumerate(replay["added"]):
        order = np.arange(max(added - size, 0), added) % size
        rows = {n: x.numpy()[env, order] for n, x in replay["data"].items() if n not in PAST}
        first, last = np.flatnonzero(rows["is_first"]), np.flatnonzero(rows["is_last"])
        if len(first) and len(last) and first[0] < last[-1] + 1:
            streams.append({name: values[first[0] : last[-1] + 1] for name, values in rows.items()})
    if not streams:
        raise ConfigError(f"replay.initial={path}: that run has not seen the end of an episode")
    return streams


def _checked(source: str, rows: Rows, fields: dict[str, tuple[tuple[int, ...], Any]], agent: Dreamer) -> Rows:
    def refuse(what: str) -> ConfigError:
        return ConfigError(f"replay.initial={source}: {what}")

    missing = [name for name in fields if name not in rows]
    if missing:
        raise refuse(f"there is no array {missing[0]}; a row has {', '.join(fields)}")
    count = len(rows["is_first"]) if rows["is_first"].ndim else 0
    if not count:
        raise refuse("it has no rows")
    found: Rows = {}
    last_rows = np.asarray(rows["is_last"], np.bool_)
    for name, (shape, dtype) in fields.items():
        values = np.array(rows[name])
        if values.dtype.kind not in "biuf":
            raise refuse(f"{name} must hold numbers")
        if name == "action" and len(values) == count == len(last_rows):
            values[last_rows] = 0  # that of an episode's last row counts for nothing
            if values.ndim == 1 and values.dtype.kind in "iu":
                values = _one_hot(values, agent, refuse) * ~last_rows[:, None]
        if values.shape != (count, *shape):
            raise refuse(f"{name} has the shape {values.shape}, not {(count, *shape)}")
        with np.errstate(over="ignore", invalid="ignore"):
            found[name] = values.astype(dtype)
        if not np.isfinite(found[name]).all():
            raise refuse(f"{name} must hold finite numbers")
        if np.dtype(dtype).kind in "biu" and (found[name] != values).any():
            raise refuse(f"{name} must hold numbers of the type {np.dtype(dtype)}")
    for name, spec in agent.observation.items():
        values, sizes = found[field(name)], getattr(spec, "sizes", ())
        if sizes and ((values < 0) | (values >= np.array(sizes))).any():
            raise refuse(f"{field(name)} must hold whole numbers from 0, below {', '.join(map(str, sizes))}")
    if np.abs(found["action"]).max() > 1.0:
        raise refuse("action must hold numbers from −1 to 1, as the agent's own actions are")
    first, last = found["is_first"], found["is_last"]
    ends = np.append(first[1:], True)  # the next row begins an episode
    if not first[0] or (ends != last).any():
        row = 0 if not first[0] else int(np.flatnonzero(ends != last)[0])
        raise refuse(
            f"row {row} breaks an episode: the first row is_first, the last is_last, and is_first follows "
            "is_last"
        )
    if (found["is_terminal"] & ~last).any():
        raise refuse(
            f"row {int(np.flatnonzero(found['is_terminal'] & ~last)[0])} is_terminal and not is_last"
        )
    found["reward"][first] = 0.0
    return found


def _one_hot(classes: NDArray[Any], agent: Dreamer, refuse: Any) -> NDArray[np.float32]:
    leaves = agent.action.leaves
    if len(leaves) > 1 or leaves[0].kind != "discrete" or leaves[0].count > 1:
        raise refuse(
            "action holds class numbers, and the action is not one of some classes: give vectors (N, A)"
        )
    if classes.min() < 0 or classes.max() >= agent.action.size:
        raise refuse(f"action must be a class from 0 to {agent.action.size - 1}")
    return np.eye(agent.action.size, dtype=np.float32)[classes]

"""Rows in chunk files against rings in memory: the same draws and rows, whatever happens in between."""

import functools
import io
import random
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.replay.config import make_sampler
from qdreamer.agents.replay.disk import chunks, journal
from qdreamer.agents.replay.disk.chunks import ChunkedRows, rows_of_chunk
from qdreamer.agents.replay.disk.window import ALIGNED
from qdreamer.agents.replay.storage import Replay
from qdreamer.agents.runs import checkpoint
from qdreamer.configs.sealed_file import DamagedError, verify_beginning
from qdreamer.quantum.jobs.access import CircuitAccess
from tests.storm.damage import changed

SHAPE = (32, 512)  # a quarter of a chunk's least size: chunks of four rows
FIELDS: dict[str, Any] = {
    "frame": (SHAPE, np.uint8),
    "reward": ((), np.float32),
    "is_first": ((), np.bool_),
    "action": ((2,), np.float32),
    "state": ((3,), np.float16),
    "nothing": ((0,), np.float16),  # as a transformer's state
    "stoch": ((2,), np.uint8),
}
SIZE, LENGTH, ENVS = 23, 3, 2
SAMPLERS = ("uniform", "prioritized", "curious", "quantum")


@functools.cache
def config_of(sampler: str, size: int) -> Any:
    return load_config([f"replay={sampler}", f"replay.capacity={ENVS * size}"])


def make(directory: Path, sampler: str, mapped: bool, size: int = SIZE) -> Replay:
    config = config_of(sampler, size)
    drawn = make_sampler(config.replay, ENVS, LENGTH, 0, CircuitAccess.of(config.quantum, directory))
    files = ["frame"] if mapped else []
    return Replay(ENVS * size, ENVS, LENGTH, FIELDS, drawn, files, directory / "replay" / "rank_0", context=5)


class Story:
    """Rows and calls that follow from a seed, so that two replays can live through the same."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)

    def step(self, replays: list[Replay]) -> None:
        """Add rows to all replays; then draw from all alike, write and update."""
        envs = np.flatnonzero(self._random.random(ENVS) < 0.8)
        rows = {
            name: self._random.integers(2 if dtype == np.bool_ else 200, size=(len(envs), *shape)).astype(
                dtype
            )
            for name, (shape, dtype) in FIELDS.items()
        }
        errors, new = self._random.random(4).astype(np.float32), self._random.random((4, LENGTH, 3))
        for replay in replays:
            replay.add(envs, rows)
        if not replays[0].ready(1):
            return
        samples = [replay.sample(4) for replay in replays]
        for replay, sample in zip(replays, samples, strict=True):
            assert_same(sample, samples[0])
            replay.write(sample.starts, {"state": new.astype(np.float16)})
            replay.update(sample.starts, errors)


def assert_same(one: Any, two: Any) -> None:
    """Starts, weights, rows and past agree to the bit; an environment's row −1 is nobody's."""
    np.testing.assert_array_equal(np.stack(one.starts), np.stack(two.starts))
    np.testing.assert_array_equal(one.weights, two.weights)
    known = one.starts.row[:, None] + np.arange(-1, LENGTH) >= 0
    assert one.rows.keys() == two.rows.keys()
    for name in one.rows:
        np.testing.assert_array_equal(one.rows[name][known], two.rows[name][known])
    for name in one.past:
        np.testing.assert_array_equal(one.past[name], two.past[name])


def save(directory: Path, replay: Replay, step: int) -> None:
    checkpoint.save(directory, {"step": step}, {"replay": replay.state_dict(), "files": replay.files()})
    replay.saved()


def restored(directory: Path, sampler: str, mapped: bool = True) -> Replay:
    state = checkpoint.restore(directory)
    replay = make(directory, sampler, mapped)
    replay.load_state_dict(state["replay"], state["files"])
    return replay


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_draws_and_rows_are_those_of_memory(sampler: str, tmp_path: Path) -> None:
    replays, story = [make(tmp_path, sampler, mapped) for mapped in (False, True)], Story(1)
    for _ in range(5 * SIZE):
        story.step(replays)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), steps=st.lists(st.integers(0, 20), min_size=1, max_size=4))
def test_a_killed_run_goes_on_to_the_bit(
    tmp_path_factory: pytest.TempPathFactory, seed: int, steps: list[int]
) -> None:
    """After any number of rows since the checkpoint, which are lost and come again."""
    directory = tmp_path_factory.mktemp("run")
    replay, memory, story = (
        make(directory, "prioritized", True),
        make(directory, "prioritized", False),
        Story(seed),
    )
    for number, count in enumerate(steps):
        for _ in range(count):
            story.step([memory, replay])
        save(directory, replay, number)
        for _ in range(steps[-1 - number]):  # lost: another story
            Story(seed + 1).step([replay])
        replay = restored(directory, "prioritized")
    for _ in range(30):
        story.step([memory, replay])


def test_a_checkpoint_copies_no_rows_and_frees_what_neither_of_two_needs(tmp_path: Path) -> None:
    replay, story, sizes, least = make(tmp_path, "uniform", True), Story(2), [], []
    folder = tmp_path / "replay" / "rank_0" / "entry_0"
    for number in range(40):
        for _ in range(6):
            story.step([replay])
        save(tmp_path, replay, number)
        sizes.append((tmp_path / checkpoint.NAME).stat().st_size)
        states = [
            torch.load(tmp_path / name, weights_only=True)
            for name in (checkpoint.NAME, checkpoint.PREVIOUS)
            if (tmp_path / name).exists()
        ]
        named = set().union(*(state["files"] for state in states))
        assert named == {str(path.relative_to(tmp_path)) for path in (tmp_path / "replay").rglob("*.bin")}
        for state in states:
            for name, known in state["files"].items():
                verify_beginning(tmp_path / name, known)
        least.append(min(int(path.stem.split("_")[1]) for path in folder.iterdir()))
    assert max(sizes) < 2**15  # a row alone has 2^14 bytes
    assert least[-1] > 20
    rows = len(list(folder.iterdir())) * 4
    assert rows <= ENVS * (SIZE + 3 * 6 + 2 * 4)


def test_any_damage_is_noticed_and_the_checkpoint_before_takes_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    replay, memory, story, chance = (
        make(tmp_path, "uniform", True),
        make(tmp_path, "uniform", False),
        Story(3),
        None,
    )
    for _ in range(40):
        story.step([memory, replay])
    save(tmp_path, replay, 1)
    older = replay.files()
    before = {name: (tmp_path / name).read_bytes()[: known[0]] for name, known in older.items()}
    for _ in range(6):
        story.step([memory, replay])
    save(tmp_path, replay, 2)
    newer, chance = replay.files(), random.Random(4)
    grown = [name for name in newer if newer[name] != older.get(name)]
    assert grown and set(grown) < set(newer)
    for _ in range(60):
        name = chance.choice(sorted(newer))
        path = tmp_path / name
        sound, used = path.read_bytes(), newer[name][0]
        path.write_bytes(
            changed(sound[:used], chance) if used == len(sound) else damaged(sound, used, chance)
        )
        try:
            verify_beginning(path, newer[name])
        except DamagedError:
            noticed = True
        else:
            noticed = path.read_bytes()[:used] == sound[:used]  # something was put behind what is used
        assert noticed
        path.write_bytes(sound)
    # Damage behind what the older checkpoint needs: it takes over, with one warning that names the file.
    name = next(name for name in grown if name in older)  # an open chunk
    end = older[name][0]
    content = bytearray((tmp_path / name).read_bytes())
    content[end + 5] ^= 1
    (tmp_path / name).write_bytes(content)
    assert checkpoint.restore(tmp_path)["step"] == 1
    warning = capsys.readouterr().err
    assert warning.count("\n") == 1 and name in warning and "takes its place" in warning
    state = checkpoint.load(tmp_path)
    again = make(tmp_path, "uniform", True)
    again.load_state_dict(state["replay"], state["files"])
    assert all((tmp_path / name).read_bytes().startswith(content) for name, content in before.items())
    # Damage in what both need: one line, and no run.
    name = next(iter(older))
    (tmp_path / name).write_bytes(b"x" + (tmp_path / name).read_bytes()[1:])
    with pytest.raises(checkpoint.CheckpointError, match=rf"{name} is damaged .* no sound one before it"):
        checkpoint.restore(tmp_path)


def damaged(sound: bytes, used: int, chance: random.Random) -> bytes:
    """Damage only what is used of an open chunk."""
    return changed(sound[:used], chance) + sound[used:]


def test_a_missing_chunk_is_named(tmp_path: Path) -> None:
    replay, story = make(tmp_path, "uniform", True), Story(5)
    for _ in range(20):
        story.step([replay])
    save(tmp_path, replay, 1)
    (tmp_path / "replay" / "rank_0" / "entry_0" / "1_0.bin").unlink()
    with pytest.raises(checkpoint.CheckpointError, match=r"replay/rank_0/entry_0/1_0.bin is missing"):
        checkpoint.restore(tmp_path)


def test_rows_of_memory_move_to_files_when_a_run_goes_on_so(tmp_path: Path) -> None:
    replay, story = make(tmp_path, "uniform", False), Story(6)
    for _ in range(3 * SIZE):
        story.step([replay])
    save(tmp_path, replay, 1)
    other = restored(tmp_path, "uniform", mapped=True)
    for _ in range(3 * SIZE):
        story.step([replay, other])
    save(tmp_path, other, 2)
    with pytest.raises(ValueError, match=r"replay\.mapped must stay"):
        restored(tmp_path, "uniform", mapped=False)


def test_rows_cannot_be_changed(tmp_path: Path) -> None:
    replay = make(tmp_path, "uniform", True)
    with pytest.raises(ValueError, match="read-only"):
        replay._chunks["frame"].array[0, 0] = 1


@pytest.mark.parametrize(
    ("size", "row_bytes", "rows"),
    [
        (1_000_000, 12_288, 5456),
        (1_000_000, 147, 65_536),
        (100, 12_288, 16),
        (10, 1, 65_536),
        (800, 65_536, 100),
    ],
)
def test_chunks_are_whole_pages(size: int, row_bytes: int, rows: int) -> None:
    assert rows_of_chunk(size, row_bytes) == rows
    assert rows * row_bytes % ALIGNED == 0


class Full(io.RawIOBase):
    """A file on a disk that takes a few bytes at a time, then none."""

    def __init__(self, room: int) -> None:
        self.room, self.taken = room, b""

    def write(self, data: Any) -> int:
        if not self.room:
            raise OSError(28, "No space left on device")
        part = bytes(data[: min(self.room, 1000)])
        self.room -= len(part)
        self.taken += part
        return len(part)


def test_a_full_disk_is_an_error_and_half_a_write_is_none(tmp_path: Path) -> None:
    rows = ChunkedRows(tmp_path / "x", "x", 1, 50, SHAPE, np.uint8)
    value = np.random.default_rng(0).integers(256, size=(1, *SHAPE), dtype=np.uint8)
    env, row = np.zeros(1, np.int64), np.zeros(1, np.int64)
    rows.append(env, row, value)
    rows._open[0].close()
    rows._open[0] = disk = Full(20_000)  # type: ignore[assignment]
    rows.append(env, row + 1, value)
    assert disk.taken == value.tobytes()
    assert rows._sums[0, 0] == zlib.crc32(value.tobytes() * 2)
    with pytest.raises(OSError, match="No space left"):
        rows.append(env, row + 2, value)


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    found: list[Path] = []

    def note(path: Path) -> None:
        found.append(path)

    monkeypatch.setattr(chunks, "sync", note)
    monkeypatch.setattr(journal, "sync", note)
    yield found


def test_what_is_named_has_reached_the_disk(tmp_path: Path, synced: list[Path]) -> None:
    replay, story = make(tmp_path, "uniform", True), Story(7)
    seen: set[str] = set()
    for _ in range(10):
        for _ in range(5):
            story.step([replay])
        synced.clear()
        known = replay.files()
        written = {str(path.relative_to(tmp_path)) for path in synced}
        assert written >= {name for name in known if f"{name}{known[name]}" not in seen}
        seen |= {f"{name}{values}" for name, values in known.items()}
        assert synced[-1] == tmp_path / "replay" / "rank_0" / "entry_0"  # names come last
    synced.clear()
    replay.files()
    assert not synced


def test_rows_in_files_are_no_memory_of_the_process(tmp_path: Path) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("Linux tells")
    rows = ChunkedRows(tmp_path / "x", "x", 1, 4000, (64, 64, 3), np.uint8)
    values = np.random.default_rng(0).integers(256, size=(1, 64, 64, 3), dtype=np.uint8)
    before = anonymous()
    for i in range(4000):
        rows.append(np.zeros(1, np.int64), np.full(1, i), values)
    assert rows.array[0, :4000].max() == values.max()
    assert anonymous() - before < 5 * 2**20  # of 47 MiB
    assert sum(path.stat().st_size for path in (tmp_path / "x").iterdir()) >= 4000 * 12_288
    assert len(list((tmp_path / "x").iterdir())) == len(rows._sums)


def anonymous() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("RssAnon")).split()[1])

"""What replay costs when its images lie in files: python -m benchmarks.replay_images [--rows 1000000].

A buffer of 64×64×3 frames (12.3 GB for 10^6) is filled in a folder that is deleted afterwards: seconds and
bytes of a checkpoint, the process's own memory (RssAnon), a batch beside a buffer in memory in turns, the
start after a kill, damage that is looked for. Rows and batches take the processor's time, all else is by the
clock. `--folder` says on which disk.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import numpy as np

from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.replay.config import make_sampler
from qdreamer.agents.replay.storage import Replay, Sample
from qdreamer.agents.runs import checkpoint
from qdreamer.agents.training.memory import keep_freed_memory
from qdreamer.configs.sealed_file import DamagedError, verify_beginning
from qdreamer.quantum.jobs.access import CircuitAccess

BATCH, LENGTH = 16, 64
EVERY = 500  # rows between checkpoints
FRAME = (64, 64, 3)
FIELDS: dict[str, tuple[tuple[int, ...], Any]] = {  # an agent of size 1M, with a memory
    "observation": (FRAME, np.uint8),
    "action": ((4,), np.float32),
    "reward": ((), np.float32),
    "is_first": ((), np.bool_),
    "is_last": ((), np.bool_),
    "is_terminal": ((), np.bool_),
    "state": ((416,), np.float16),
    "stoch": ((32,), np.uint8),
}
ENV = np.zeros(1, np.int64)
NOISE = np.random.default_rng(0).integers(256, size=(61, *FRAME), dtype=np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--killed", type=Path, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.killed:
        go_on_and_die(a.killed, a.rows)
    free = shutil.disk_usage(a.folder).free
    rows = min(a.rows, int(free / 1.3 / np.prod(FRAME)))
    print(
        f"{rows:,} rows of 64×64×3 bytes, {rows * np.prod(FRAME) / 1e9:.1f} GB; {free / 1e9:.0f} GB were free"
    )
    with tempfile.TemporaryDirectory(dir=a.folder) as name:
        measure(Path(name), rows)


def measure(directory: Path, rows: int) -> None:
    keep_freed_memory()  # as a run does
    replay = make(directory, rows)
    fill(replay, rows + rows // 10)  # the ring has gone round
    used: list[float] = []
    batch = rows_at(np.arange(1))
    for _ in range(2000):
        timed(lambda: replay.add(ENV, batch), used)
    print(f"a row is added in {median(used) * 1e6:.0f} µs; anonymous memory", end=" ")
    print(f"{anonymous() / 1e9:.2f} GB, all rows' h and z included")
    saves(directory, replay)
    print(f"on disk: {disk(directory / 'replay') / 1e9:.2f} GB of chunks")
    batches(replay, rows)
    resume(directory, replay, rows)
    corruptions(directory, replay)


def make(directory: Path, rows: int, mapped: bool = True) -> Replay:
    config = load_config(["replay=prioritized", f"replay.capacity={rows}"])
    sampler = make_sampler(config.replay, 1, LENGTH, 0, CircuitAccess.of(config.quantum, directory))
    files, folder = ["observation"] if mapped else [], directory / "replay" / "rank_0"
    return Replay(rows, 1, LENGTH, FIELDS, sampler, files, folder, context=LENGTH)


def rows_at(t: Any) -> dict[str, Any]:
    """Rows with the numbers t (n,), of which they are made; no two frames are equal."""
    rows = {name: (t % 200).reshape(-1, *[1] * len(shape)) for name, (shape, _) in FIELDS.items()}
    rows = {
        name: np.broadcast_to(x, (len(t), *FIELDS[name][0])).astype(FIELDS[name][1])
        for name, x in rows.items()
    }
    frames = NOISE[t % len(NOISE)]
    frames.reshape(len(t), -1)[:, :8] = t.view(np.uint8).reshape(len(t), 8)
    return rows | {"observation": frames, "is_first": t % 200 == 0}


def add(replay: Replay, count: int) -> None:
    for t in range(replay._added[0], replay._added[0] + count):
        replay.add(ENV, rows_at(np.array([t])))


def fill(replay: Replay, count: int) -> None:
    """As if rows 0 … count − 1 had been added, a chunk at a time."""
    chunks, size = replay._chunks.get("observation"), replay.size
    step = chunks.rows if chunks else 1000
    for begin in range(0, count, step):
        t = np.arange(begin, min(begin + step, count))
        for name, values in rows_at(t).items():
            if name in replay._data:
                replay._data[name][0, t % size] = values
            elif chunks:
                chunks.extend(0, begin, values)
    replay._added[:] = count
    if replay._journal is not None:
        replay._journal.changed[:] = True


def saves(directory: Path, replay: Replay) -> None:
    save(directory, replay, 0)  # all rows' h and z, once
    times, sizes, written = [], [], []
    for step in range(1, 5):
        add(replay, EVERY)
        for _ in range(EVERY * 32 // (BATCH * LENGTH)):  # at a replay ratio of 32
            visit(replay)
        before, begin = bytes_written(), perf_counter()
        save(directory, replay, step)
        times.append(perf_counter() - begin)
        written.append(bytes_written() - before)
        sizes.append((directory / checkpoint.NAME).stat().st_size)
    print(
        f"a checkpoint every {EVERY} rows: {median(times):.2f} s, file of {median(sizes) / 1e6:.1f} MB",
        end=", ",
    )
    print(
        f"{median(written) / 1e6:.1f} MB written; frames since the last {EVERY * np.prod(FRAME) / 1e6:.1f} MB"
    )
    print(f"anonymous memory afterwards: {anonymous() / 1e9:.2f} GB")


def visit(replay: Replay) -> Sample:
    """Draw a batch, and write back what an update finds out."""
    sample = replay.sample(BATCH)
    new = {
        name: np.full((BATCH, LENGTH, *FIELDS[name][0]), 3, FIELDS[name][1]) for name in ("state", "stoch")
    }
    replay.write(sample.starts, new)
    replay.update(sample.starts, np.arange(1.0, BATCH + 1, dtype=np.float32))
    return sample


def save(directory: Path, replay: Replay, step: int) -> None:
    checkpoint.save(directory, {"step": step}, {"replay": replay.state_dict(), "files": replay.files()})
    replay.saved()


def batches(replay: Replay, rows: int) -> None:
    """Batches of mapped rows and of rows in memory, in turns; then of rows that only the disk has."""
    few = min(rows, 100_000)
    with tempfile.TemporaryDirectory() as name:
        small, ring = make(Path(name), few), make(Path(name), few, mapped=False)
        for one in (small, ring):
            fill(one, few)
        times: dict[str, list[float]] = {"memory": [], "files": []}
        for _ in range(200):
            a = timed(lambda: ring.sample(BATCH), times["memory"])
            b = timed(lambda: small.sample(BATCH), times["files"])
            assert np.array_equal(a.starts.row, b.starts.row)
            assert np.array_equal(a.rows["observation"], b.rows["observation"])
        inside, outside = (median(times[name]) * 1e3 for name in ("memory", "files"))
        print(
            f"a {BATCH}×{LENGTH} batch of {few:,} rows: memory {inside:.2f} ms, files {outside:.2f} ms",
            end=" ",
        )
        print(f"({outside / inside:.2f}); the same rows to the bit")
    times = {"all rows, as they are cached": [], "rows that only the disk has": []}
    for _ in range(100):
        timed(lambda: replay.sample(BATCH), times["all rows, as they are cached"])
    for _ in range(10):
        for path in replay._chunks["observation"]._folder.iterdir():
            forget(path)
        for _ in range(5):
            timed(lambda: replay.sample(BATCH), times["rows that only the disk has"], perf_counter)
    for label, found in times.items():
        print(f"a batch of {label}: {median(found) * 1e3:.1f} ms")


def forget(path: Path) -> None:
    """Ask the system to drop a file from its cache."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def resume(directory: Path, replay: Replay, rows: int) -> None:
    """Another process goes on from the checkpoint and is killed; this one then goes on to the bit."""
    save(directory, replay, 10)
    program = [
        sys.executable,
        "-m",
        "benchmarks.replay_images",
        "--rows",
        str(rows),
        "--killed",
        str(directory),
    ]
    told = subprocess.run(program, check=False, capture_output=True, text=True)
    assert told.returncode == -9, told.stderr
    print(told.stdout.strip())
    begin = perf_counter()
    state = checkpoint.restore(directory)
    other = make(directory, rows)
    other.load_state_dict(state["replay"], state["files"])
    print(f"back after the kill in {perf_counter() - begin:.1f} s", end="; ")
    del state
    for _ in range(20):
        for one in (replay, other):
            add(one, 20)
        expected, found = visit(replay), visit(other)
        assert np.array_equal(expected.starts.row, found.starts.row)
        for part, same in zip((expected.rows, expected.past), (found.rows, found.past), strict=True):
            assert all(np.array_equal(part[name], same[name]) for name in part)
    print("20 batches and what came between are those of the unbroken buffer, to the bit")


def go_on_and_die(directory: Path, rows: int) -> None:
    """What the process that is killed does: all chunks from the disk, verified; rows; no farewell."""
    for path in (directory / "replay").rglob("*.bin"):
        forget(path)
    begin = perf_counter()
    state = checkpoint.restore(directory)
    verified = perf_counter() - begin
    replay = make(directory, rows)
    replay.load_state_dict(state["replay"], state["files"])
    taken = perf_counter() - begin
    size = sum(length for length, _ in state["files"].values()) / 1e9
    del state
    print(f"resumed in {taken:.1f} s, of which {verified:.1f} to read and verify {size:.1f} GB", end=" ")
    print(
        f"({verified / size:.2f} s per GB, from the disk); anonymous memory {anonymous() / 1e9:.2f} GB",
        flush=True,
    )
    add(replay, 300)
    visit(replay)
    os.kill(os.getpid(), 9)


def corruptions(directory: Path, replay: Replay) -> None:
    """One changed bit anywhere in a chunk."""
    chance, files, noticed = random.Random(0), replay.files(), 0
    sums: list[float] = []
    for _ in range(200):
        name, known = chance.choice(sorted(files.items()))
        place = chance.randrange(known[0])
        flip(directory / name, place, bit := 1 << chance.randrange(8))
        begin = perf_counter()
        try:
            verify_beginning(directory / name, known)
        except DamagedError:
            noticed += 1
        sums.append(known[0] / (perf_counter() - begin))
        flip(directory / name, place, bit)
    print(f"200 flipped bits: {noticed} noticed; sums at {median(sums) / 1e9:.2f} GB/s from the cache")


def flip(path: Path, place: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        old = file.read(1)[0]
        file.seek(place)
        file.write(bytes([old ^ bit]))


def timed(call: Callable[[], Any], into: list[float], clock: Callable[[], float] = process_time) -> Any:
    """Call, and note the processor's seconds; the machine may be busy with other things."""
    begin = clock()
    out = call()
    into.append(clock() - begin)
    return out


def anonymous() -> int:
    """Return the bytes of memory that are this process's own (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("RssAnon")).split()[1])


def bytes_written() -> int:
    """Return the bytes that this process has ever asked to be written (Linux)."""
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(lines["wchar"])


def disk(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*.bin"))


if __name__ == "__main__":
    main()

"""Bytes that are changed at random: nothing that was changed may be loaded."""

import contextlib
import io
import random
from pathlib import Path

import numpy as np
import torch

from qdreamer.agents.replay.disk.chunks import ChunkedRows
from qdreamer.agents.runs import checkpoint
from qdreamer.configs.sealed_file import DamagedError, verify_beginning


def damaged_loads(directory: Path, count: int, chance: random.Random) -> int:
    """Change the newer of two checkpoints `count` times, each time otherwise.

    Returns how often anything but the older one was loaded.
    """
    directory.mkdir(parents=True, exist_ok=True)
    state = {"step": 5, "weights": {str(i): torch.randn(64, 64) for i in range(8)}, "names": ["a"] * 50}
    for step in (4, 5):
        checkpoint.save(directory, state | {"step": step}, {})
    path = directory / checkpoint.NAME
    sound, wrong = path.read_bytes(), 0
    with contextlib.redirect_stderr(io.StringIO()):  # a warning each time
        for _ in range(count):
            path.write_bytes(changed(sound, chance))
            wrong += checkpoint.load(directory)["step"] != 4
    return wrong


def damaged_chunks(directory: Path, count: int, chance: random.Random) -> int:
    """Change what a checkpoint needs of replay's files, each time otherwise.

    Returns how often nobody noticed.
    """
    rows = ChunkedRows(directory / "rows", "rows", 1, 64, (32, 64), np.uint8)  # chunks of 32
    values = np.random.default_rng(chance.randrange(1000)).integers(256, size=(50, 32, 64), dtype=np.uint8)
    for row in range(50):  # a full chunk, and an open one
        rows.append(np.zeros(1, np.int64), np.full(1, row), values[row : row + 1])
    files, unnoticed = rows.files(np.array([50])), 0
    sound = {name: (directory / name).read_bytes() for name in files}
    for _ in range(count):
        name = chance.choice(list(files))
        used = files[name][0]
        damaged = changed(sound[name][:used], chance)
        (directory / name).write_bytes(damaged)
        try:
            verify_beginning(directory / name, files[name])
        except DamagedError:
            continue
        unnoticed += damaged[:used] != sound[name][:used]  # else something came behind what is used
    return unnoticed


def changed(content: bytes, chance: random.Random) -> bytes:
    """Return other bytes: some inverted, cut off, doubled, zeroed or put elsewhere."""
    size = len(content)
    begin = chance.randrange(size)
    length = min(chance.choice([1, 8, 64, 4096]), size - begin)
    block = content[begin : begin + length]
    kind = chance.choice(["invert", "bit", "cut", "double", "zero", "swap"])
    if kind == "cut":
        return content[:begin]
    if kind == "double":
        return content[: begin + length] + block + content[begin + length :]
    if kind == "swap":
        other = chance.randrange(size - length + 1)
        moved = bytearray(content)
        moved[begin : begin + length] = content[other : other + length]
        moved[other : other + length] = block
        return bytes(moved) if bytes(moved) != content else content[:-1]
    new = {
        "invert": bytes(255 - byte for byte in block),
        "bit": bytes([block[0] ^ (1 << chance.randrange(8))]) + block[1:],
        "zero": bytes(length) if any(block) else b"\xff" * length,
    }[kind]
    return content[:begin] + new + content[begin + length :]

"""Bytes that are changed at random: nothing that was changed may be loaded."""

import random
from pathlib import Path

import torch

from qdreamer.agents.runs import checkpoint


def damaged_loads(directory: Path, count: int, chance: random.Random) -> int:
    """Change a checkpoint `count` times, each time otherwise; return how often it was loaded all the same."""
    directory.mkdir(parents=True, exist_ok=True)
    state = {"step": 5, "weights": {str(i): torch.randn(64, 64) for i in range(8)}, "names": ["a"] * 50}
    checkpoint.save(directory, state, {})
    path = directory / checkpoint.NAME
    sound, loaded = path.read_bytes(), 0
    for _ in range(count):
        path.write_bytes(changed(sound, chance))
        try:
            checkpoint.load(directory)
        except checkpoint.CheckpointError:
            continue
        loaded += 1
    return loaded


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

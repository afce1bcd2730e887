"""python -m tests.storm --minutes 60: kills of five kinds of run, damaged files, fuzzed command lines."""

import argparse
import random
import tempfile
import time
from dataclasses import fields
from pathlib import Path

from tests.storm import damage, fuzz, kills


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.storm", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="for the kills")
    parser.add_argument("--kinds", nargs="+", choices=list(kills.KINDS), default=list(kills.KINDS))
    parser.add_argument("--corruptions", type=int, default=10_000)
    parser.add_argument("--lines", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        loads = damage.damaged_loads(Path(folder) / "damage", options.corruptions, chance)
        print(f"{options.corruptions} damaged checkpoints: {loads} loaded", flush=True)
        believed = damage.damaged_chunks(Path(folder) / "chunks", options.corruptions, chance)
        print(f"{options.corruptions} damaged chunks of replay: {believed} not noticed", flush=True)
        bad = fuzz.tracebacks(options.lines, chance)
        print(f"{options.lines} fuzzed command lines: {bad} tracebacks", flush=True)
        _storm(Path(folder), options.kinds, options.minutes * 60.0, chance)


def _storm(folder: Path, names: list[str], seconds: float, chance: random.Random) -> None:
    columns = [column.name for column in fields(kills.Tally)]
    print(f"| kind | {' | '.join(columns)} |\n|---{'|---:' * len(columns)}|", flush=True)
    for name in names:
        kind, total = kills.KINDS[name], kills.Tally()
        expected, takes = kills.unbroken(kind, folder / f"{name}-unbroken")
        begin, number = time.monotonic(), 0
        while time.monotonic() - begin < seconds / len(names):
            one = kills.batter(kind, folder / f"{name}-{number}", expected, takes, chance)
            for column in columns:
                setattr(total, column, getattr(total, column) + getattr(one, column))
            number += 1
        print(f"| {name} | {' | '.join(str(getattr(total, column)) for column in columns)} |", flush=True)


if __name__ == "__main__":
    main()

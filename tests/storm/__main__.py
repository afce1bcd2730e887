"""python -m tests.storm --minutes 60: kills of five kinds of run, damaged files, fuzzed input."""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.storm import damage, forks, fuzz, fuzz_files, kills

KINDS = kills.KINDS | kills.SHORT
LATE = ["qiskit_aer", "qiskit_ibm_runtime.fake_provider"]  # what runs on fake devices import in training


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.storm", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="for the kills, shared by their kinds")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(kills.KINDS))
    parser.add_argument("--corruptions", type=int, default=10_000, help="of checkpoints, and of chunks")
    parser.add_argument(
        "--lines", type=int, default=2_000, help="fuzzed command lines, configs and logs, each"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        sound = _storm(Path(folder), options.kinds, options.minutes * 60.0, chance)
        loads = damage.damaged_loads(Path(folder) / "damage", options.corruptions, chance)
        print(f"{options.corruptions} damaged checkpoints: {loads} loaded", flush=True)
        believed = damage.damaged_chunks(Path(folder) / "chunks", options.corruptions, chance)
        print(f"{options.corruptions} damaged chunks of replay: {believed} not noticed", flush=True)
        bad = fuzz.tracebacks(options.lines, chance)
        print(f"{options.lines} fuzzed command lines: {bad} tracebacks", flush=True)
        for files in (
            (fuzz_files.configs, fuzz_files.logs) if options.lines else ()
        ):  # these raise what they find
            files(Path(folder) / files.__name__, options.lines)
            print(f"{options.lines} fuzzed {files.__name__}: 0 tracebacks", flush=True)
    sys.exit(0 if sound and not (loads or believed or bad) else 1)


def _storm(folder: Path, names: list[str], seconds: float, chance: random.Random) -> bool:
    """Batter the kinds in turns, each as long as the others; print a row for each run, and the sums."""
    with_threads = [name for name in names if KINDS[name].threads]
    others = [kills.words(KINDS[name], folder / "nowhere") for name in names if name not in with_threads]
    forks.prepare(others, LATE if with_threads else ())
    totals = {name: kills.Tally() for name in names}
    used, expected = dict.fromkeys(names, 0.0), {}
    print(
        f"| kind | {' | '.join(vars(kills.Tally()))} |\n|---{'|---:' * len(vars(kills.Tally()))}|", flush=True
    )
    left = list(names)
    while left and sum(used.values()) < seconds:
        name = min(left, key=used.__getitem__)
        kind, total, begin = KINDS[name], totals[name], time.monotonic()
        runs = folder / f"{name.replace(' ', '_')}_{total.runs}"
        try:
            if name not in expected:
                expected[name] = kills.unbroken(kind, runs.with_name(f"{runs.name}_unbroken"))
            one = kills.batter(kind, runs, expected[name], chance)
        except RuntimeError as error:
            print(f"{name}: {error}", flush=True)
            left.remove(name)
            one = kills.Tally(failed=1)
        total.add(one)
        used[name] += time.monotonic() - begin
        print(_row(name, one), flush=True)
        if not one.sound():
            print(kills.text(runs), flush=True)
    everything = kills.Tally()
    print("\nall runs:")
    for name, total in totals.items():
        print(_row(name, total))
        everything.add(total)
    print(_row("all", everything), flush=True)
    return everything.sound()


def _row(name: str, tally: kills.Tally) -> str:
    return f"| {name} | {' | '.join(map(str, vars(tally).values()))} |"


if __name__ == "__main__":
    main()

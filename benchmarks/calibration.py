"""How often the verdict is wrong: python -m benchmarks.calibration.

Simulated comparisons of two identical agents, whose scores are drawn from one distribution: every
"better" or "worse" is false. Distributions: normal; log-normal (a few very slow seeds); ceiling (about
half of the runs at 500, the others below, as on CartPole); censored (log-normal steps, a run in five
fails). Beside it the coverage of the 95 % interval of one agent's interquartile mean; "true" is that of
an agent with infinitely many seeds.
"""

import argparse
from collections.abc import Callable
from time import perf_counter

import numpy as np

from qdreamer.analysis.aggregates import Floats, iqm, iqm_of_tasks
from qdreamer.analysis.bootstrap import interval
from qdreamer.analysis.verdict import decide, difference

Draw = Callable[[np.random.Generator, tuple[int, ...]], Floats]

SHAPES: dict[str, Draw] = {
    "normal": lambda random, shape: random.normal(size=shape),
    "log-normal": lambda random, shape: random.lognormal(sigma=1.0, size=shape),
    "ceiling": lambda random, shape: np.minimum(500.0, random.normal(500.0, 40.0, size=shape)),
    "censored": lambda random, shape: -np.minimum(6000.0, 4000.0 * random.lognormal(0.0, 0.5, size=shape)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--comparisons", type=int, default=5_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[10])
    parser.add_argument("--resamples", type=int, default=2_000)
    parser.add_argument("--scores", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    a = parser.parse_args()
    print(f"{a.comparisons} comparisons of identical agents, {a.resamples} resamples each")
    print("| scores | seeds | interval without 0 | better or worse | coverage of the 95 % interval | s |")
    print("|---|---|---|---|---|---|")
    for name in a.scores:
        shape = SHAPES[name]
        for seeds in a.seeds:
            begin = perf_counter()
            excluded, claimed = false_claims(shape, seeds, a.comparisons, a.resamples)
            covered = coverage(shape, seeds, a.comparisons, a.resamples)
            seconds = perf_counter() - begin
            print(
                f"| {name} | {seeds} | {excluded:.2%} | {claimed:.2%} | {covered:.2%} | {seconds:.0f} |",
                flush=True,
            )


def false_claims(draw: Draw, seeds: int, comparisons: int, resamples: int) -> tuple[float, float]:
    """Share of comparisons whose interval leaves out 0, and of those that the verdict's rules let pass."""
    random = np.random.default_rng(0)
    excluded = claimed = 0
    for _ in range(comparisons):
        found = difference(draw(random, (seeds,)), draw(random, (seeds,)), random, resamples)
        excluded += 0.0 not in found.interval()
        claimed += decide(found, None).word in ("better", "worse")
    return excluded / comparisons, claimed / comparisons


def coverage(draw: Draw, seeds: int, experiments: int, resamples: int) -> float:
    """How often the interval of the interquartile mean holds the true one."""
    random = np.random.default_rng(1)
    truth = float(np.mean([iqm(draw(random, (1_000_000,))) for _ in range(5)]))
    held = 0
    for _ in range(experiments):
        held += truth in interval(iqm_of_tasks, [draw(random, (seeds, 1))], random, resamples)
    return held / experiments


if __name__ == "__main__":
    main()

"""Sequence models beside each other: python -m benchmarks.sequence [--lengths 64 256] [--contexts 16 1024].

The observe pass (posterior and prior included; forward, and backward to all inputs and weights) for
B = 16 sequences of T steps at the same width D, one thread, as the agent runs it: with the kernels in C,
freed memory kept. The GRU runs coupled in its three forms: the scan in C, the scan in torch
(hand-written gradients), and the plain loop that defines it (autograd); and decoupled, a loop as well.
Each transformer stands there with and without its kernels.

The floor is the least time that the multiplications of a pass take at the rate measured here, see
benchmarks/roofline.py; floors say what ratios no rearrangement can beat. Last comes one imagined step
from N = 128 starts, by the number of steps that lie behind them.
"""

import argparse
from collections.abc import Callable
from statistics import median
from time import perf_counter

import torch

from benchmarks.roofline import count, measure_rates
from qdreamer import native
from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.training.memory import keep_freed_memory
from qdreamer.worldmodel.model import WorldModel
from qdreamer.worldmodel.rssm import Carry

BATCH, STARTS, ACTIONS = 16, 8, 2
MODELS = {
    "gru": ("sequence=gru",),
    "gru, decoupled": ("sequence=gru", "world_model.posterior=decoupled"),
    "softmax": ("sequence=transformer", "attention=softmax"),
    "coherent": ("sequence=transformer", "attention=coherent"),
    "born": ("sequence=transformer", "attention=born"),
}

ROWS = {  # name → model, and whether it has its kernels
    "gru, scan in C": ("gru", True),
    "gru, loop": ("gru", False),
    "gru, decoupled": ("gru, decoupled", True),
    **{name: (name, True) for name in ("softmax", "coherent", "born")},
    **{f"{name}, without kernels": (name, False) for name in ("softmax", "coherent", "born")},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 256], help="T")
    parser.add_argument("--contexts", type=int, nargs="+", default=[16, 1024])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("overrides", nargs="*", help="further settings, as in train.py")
    a = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    keep_freed_memory()
    print(f"B={BATCH} threads=1 torch={torch.__version__}; median ms of {a.repeats}, taken in turns")
    print("| observe, forward + backward | D | " + " | ".join(f"T={t}" for t in a.lengths) + " |")
    print("|---" * (2 + len(a.lengths)) + "|")
    models = {name: build([*settings, *a.overrides], max(a.lengths)) for name, settings in MODELS.items()}
    table = {t: in_turns({row: observing(models, row, t) for row in ROWS}, a.repeats) for t in a.lengths}
    scan, loop = "gru, scan in C", "gru, loop"
    for row, (name, _) in ROWS.items():
        ms = {t: table[t][row] for t in a.lengths}
        cells = (
            f"{ms[t]:.1f} ({table[t][scan] / ms[t]:.2f} × C, {table[t][loop] / ms[t]:.1f} × loop)"
            for t in a.lengths
        )
        print(f"| {row} | {models[name].rssm.sequence.deter} | " + " | ".join(cells) + " |")
    rate = measure_rates().gflops
    print(f"\nfloors at {rate:.0f} GFLOP/s; the pairs of attention are not counted")
    for name in ("gru", "coherent"):
        for t in a.lengths:
            row = next(row for row, entry in ROWS.items() if entry[0] == name)
            gflop = count(observing(models, row, t, kernel=False)).gflop
            floor = gflop / rate * 1e3
            print(
                f"  {name} T={t}: {gflop:.2f} GFLOP, at least {floor:.1f} ms: at most "
                f"{table[t][scan] / floor:.1f} × the scan in C, {table[t][loop] / floor:.0f} × the loop"
            )
    print(
        f"\n| one imagined step, {BATCH * STARTS} starts | " + " | ".join(map(str, a.contexts)) + " behind |"
    )
    print("|---" * (1 + len(a.contexts)) + "|")
    native.use(True)  # as in a run
    wide = {
        name: build([*MODELS[name], *a.overrides], max(a.contexts))
        for name in ("gru", "softmax", "coherent", "born")
    }
    steps = {c: in_turns({n: imagining(m, c) for n, m in wide.items()}, a.repeats) for c in a.contexts}
    for name in wide:
        print(f"| {name} | " + " | ".join(f"{steps[c][name]:.2f}" for c in a.contexts) + " |")


def build(overrides: list[str], window: int) -> WorldModel:
    """A world model for CartPole whose window, if it has one, holds `window` steps."""
    if "sequence=transformer" in overrides:
        overrides = [*overrides, f"sequence.window={max(2, window)}"]
    config = load_config(overrides)
    torch.manual_seed(0)
    return WorldModel(config.world_model, config.sequence, config.attention, 4, False, ACTIONS)


def observing(
    models: dict[str, WorldModel], row: str, length: int, kernel: bool | None = None
) -> Callable[[], None]:
    """One pass of a row of the table; `kernel` overrides whether it uses the kernels."""
    name, with_kernels = ROWS[row]
    with_kernels = with_kernels if kernel is None else kernel
    model = models[name]
    rssm = model.rssm
    units = model.config.units
    embed = torch.randn(BATCH, length, units, requires_grad=True)
    action = torch.nn.functional.one_hot(torch.randint(ACTIONS, (BATCH, length))).float()
    is_first = (torch.rand(BATCH, length) < 0.02).float()
    noise = rssm.noise(BATCH, length)

    def run() -> None:
        native.use(with_kernels)
        model.zero_grad(set_to_none=True)
        trajectory = rssm.observe(embed, action, is_first, rssm.initial(BATCH), noise)
        (trajectory.features.square().mean() + trajectory.prior.square().mean()).backward()

    return run


def imagining(model: WorldModel, context: int) -> Callable[[], None]:
    rssm = model.rssm
    embed, is_first = torch.randn(BATCH, context, model.config.units), torch.zeros(BATCH, context)
    action = torch.zeros(BATCH, context, ACTIONS)
    t = torch.full((BATCH, STARTS), context - 1)
    noise = rssm.noise(BATCH * STARTS)
    with torch.no_grad():
        carry = rssm.initial(BATCH)
        trajectory = rssm.observe(embed, action, is_first, carry, rssm.noise(BATCH, context))
        now: list[Carry] = [rssm.start(trajectory, t)[1]]

    @torch.no_grad()
    def run() -> None:
        now[0] = rssm.imagine(torch.zeros(BATCH * STARTS, ACTIONS), now[0], noise)[1]

    return run


def in_turns(runs: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Median milliseconds of each, all taken in turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(repeats + 2):
        for name, run in runs.items():
            begin = perf_counter()
            run()
            if i >= 2:
                times[name].append(perf_counter() - begin)
    return {name: median(values) * 1e3 for name, values in times.items()}


if __name__ == "__main__":
    main()

"""Sequence models beside each other: python -m benchmarks.sequence [--lengths 64 256] [--contexts 16 1024].

With `--windows 256 1000 10000` instead what a memory costs when so many steps lie behind: see `memories`.

The observe pass (posterior and prior included; forward, and backward to all inputs and weights) for
B = 16 sequences of T steps at the same width D, one thread, as the agent runs it: with the kernels in C,
freed memory kept. The GRU runs coupled in its three forms: the scan in C, the scan in torch
(hand-written gradients), and the plain loop that defines it (autograd); and decoupled, a loop as well.
Each transformer, and the GRU with each memory, stands there with and without its kernels.

The floor is the least time that the multiplications of a pass take at the rate measured here, see
benchmarks/roofline.py; floors say what ratios no rearrangement can beat. Last comes one imagined step
from N = 128 starts, by the number of steps that lie behind them.
"""

import argparse
from collections.abc import Callable, Sequence
from statistics import median
from time import process_time
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from benchmarks.roofline import count, measure_rates
from qdreamer import native
from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.dreamer import Dreamer
from qdreamer.agents.training.memory import keep_freed_memory
from qdreamer.agents.training.training import make_dreamer
from qdreamer.envs.actions import ActionSpec
from qdreamer.envs.entries import ENTRY, Vector
from qdreamer.worldmodel.model import WorldModel
from qdreamer.worldmodel.rssm import Carry

BATCH, STARTS, ACTIONS, HORIZON = 16, 8, 2, 15
MEMORIES = ("softmax", "coherent", "born", "ffm")
MODELS = {
    "gru": ("sequence=gru",),
    "gru, decoupled": ("sequence=gru", "world_model.posterior=decoupled"),
    "softmax": ("sequence=transformer", "attention=softmax"),
    "coherent": ("sequence=transformer", "attention=coherent"),
    "born": ("sequence=transformer", "attention=born"),
    **{f"gru + {kind}": ("sequence=gru_attention", f"attention={kind}") for kind in MEMORIES},
}

NO_WINDOW = ("sequence=gru",)

ROWS = {  # name → model, and whether it has its kernels
    "gru, scan in C": ("gru", True),
    "gru, loop": ("gru", False),
    "gru, decoupled": ("gru, decoupled", True),
    **{
        f"{name}{'' if kernels else ', without kernels'}": (name, kernels)
        for name in list(MODELS)[2:]
        for kernels in (True, False)
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 256], help="T")
    parser.add_argument("--contexts", type=int, nargs="+", default=[16, 1024])
    parser.add_argument("--windows", type=int, nargs="+", help="only memories, with these windows")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("overrides", nargs="*", help="further settings, as in train.py")
    a = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    keep_freed_memory()
    print(f"B={BATCH} threads=1 torch={torch.__version__}; median ms of {a.repeats}, taken in turns")
    if a.windows:
        memories(a.windows, a.repeats, a.overrides)
        return
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
        for name in MODELS
        if name != "gru, decoupled"
    }
    steps = {c: in_turns({n: imagining(m, c) for n, m in wide.items()}, a.repeats) for c in a.contexts}
    for name in wide:
        print(f"| {name} | " + " | ".join(f"{steps[c][name]:.2f}" for c in a.contexts) + " |")


def memories(windows: list[int], repeats: int, overrides: list[str]) -> None:
    """Print bytes and ms of a step when a window full of steps lies behind it; the GRU alone is the base.

    Acting: one step of 16 environments up to the next state; bytes of the memory's state of one of them.
    Imagining: a step of 128 futures under their actor, in C where there are kernels, one of 15 with what
    begins them, after 16 replayed steps and a filled memory; bytes that the memory keeps of one row, for its
    eight futures.
    """
    print("| memory | window | acting, bytes | ms | imagining, bytes | ms |\n|---|---|---|---|---|---|")
    native.use(True)
    for window in windows:
        runs: dict[str, Callable[[], None]] = {}
        sizes = {}
        for name in ("gru", *(f"gru + {kind}" for kind in MEMORIES)):
            config = load_config([*settings_of(MODELS[name], window), *overrides])
            torch.manual_seed(0)
            agent = make_dreamer(config, {ENTRY: Vector(4)}, ActionSpec.discrete(ACTIONS))
            act, acting_bytes = acting(agent.world_model, window)
            imagine, imagining_bytes = imagining_from_replay(agent, window)
            runs |= {f"{name}, acting": act, f"{name}, imagining": imagine}
            sizes[name] = acting_bytes, imagining_bytes
        ms = in_turns(runs, repeats)
        for name, (state, past) in sizes.items():
            times = ms[f"{name}, acting"], ms[f"{name}, imagining"] / HORIZON
            print(f"| {name} | {window} | {state:,} | {times[0]:.2f} | {past:,} | {times[1]:.2f} |")


def stored_past(model: WorldModel, window: int) -> Carry:
    """What replay gives a batch: window − 1 rows of one episode."""
    rssm = model.rssm
    h = torch.randn(BATCH, window - 1, rssm.sequence.deter).tanh()
    classes = torch.randint(rssm.classes, (BATCH, window - 1, rssm.stoch))
    action = torch.zeros(BATCH, window - 1, ACTIONS)
    return rssm.unpack(h, classes, action, torch.zeros(BATCH, window - 1, dtype=torch.long))


@torch.no_grad()
def acting(model: WorldModel, window: int) -> tuple[Callable[[], None], int]:
    """A step of 16 environments, and bytes for one."""
    embed, action = torch.randn(BATCH, 1, model.config.units), torch.zeros(BATCH, 1, ACTIONS)
    now = [stored_past(model, window)]

    @torch.no_grad()
    def step() -> None:
        noise = model.rssm.noise(BATCH, 1)
        now[0] = model.rssm.last(model.rssm.observe(embed, action, torch.zeros(BATCH, 1), now[0], noise))

    for _ in range(2):  # the first fills the memory
        step()
    return step, held_bytes(now[0].memory) // BATCH


@torch.no_grad()
def imagining_from_replay(agent: Dreamer, window: int) -> tuple[Callable[[], None], int]:
    """All steps of 128 futures, and bytes for the eight of one row."""
    model = agent.world_model
    embed, action = torch.randn(BATCH, BATCH, model.config.units), torch.zeros(BATCH, BATCH, ACTIONS)
    noise, first = model.rssm.noise(BATCH, BATCH), torch.zeros(BATCH, BATCH)
    trajectory = model.rssm.observe(embed, action, first, stored_past(model, window), noise)

    @torch.no_grad()
    def run() -> None:
        agent.imagine(trajectory, BATCH - STARTS, None)

    return run, held_bytes(trajectory.memories.layers if trajectory.memories else ()) // BATCH


def held_bytes(state: Any) -> int:
    """Bytes of all storages that a pytree of tensors keeps."""
    storages = [t.untyped_storage() for t in tree_leaves(state) if torch.is_tensor(t)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def build(overrides: list[str], window: int) -> WorldModel:
    """A world model for CartPole whose window, if it has one, holds `window` steps."""
    config = load_config(settings_of(overrides, window))
    torch.manual_seed(0)
    parts = config.world_model, config.sequence, config.attention
    return WorldModel(*parts, {ENTRY: Vector(4)}, ACTIONS)


def settings_of(overrides: Sequence[str], window: int) -> list[str]:
    """The settings with that window, if there is one."""
    return [*overrides, *[f"sequence.window={max(2, window)}"] * (overrides[0] not in NO_WINDOW)]


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
    """Median milliseconds of processor time of each, all taken in turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(repeats + 2):
        for name, run in runs.items():
            begin = process_time()
            run()
            if i >= 2:
                times[name].append(process_time() - begin)
    return {name: median(values) * 1e3 for name, values in times.items()}


if __name__ == "__main__":
    main()

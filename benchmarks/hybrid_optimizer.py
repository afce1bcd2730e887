"""The hybrid optimizer beside its controls; on searches of real training: `benchmarks.hybrid_searches`.

python -m benchmarks.hybrid_optimizer toys       steps to a target loss where Adam's direction is a bad one
python -m benchmarks.hybrid_optimizer overhead   what searches cost, in turns with the base optimizer

Finished seeds of toys are kept in --out and not repeated.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import process_time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import Tensor, nn

from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.optim.direction_search import SolverSearch
from qdreamer.agents.optim.hybrid_optimizer import HybridOptimizer
from qdreamer.agents.optim.optimizer import Objective, adapt
from qdreamer.agents.optim.parameter_groups import ParameterGroup
from qdreamer.agents.optim.quadratic_model import Levels
from qdreamer.agents.training.training import Run
from qdreamer.quantum.backends.statevector import Statevector
from qdreamer.quantum.qaoa.controls import Annealing, Exact, Greedy, Random, Scalar, Separable
from qdreamer.quantum.qaoa.qaoa import QAOA
from qdreamer.quantum.qaoa.solver import Solver

SHOTS = 1024
RUN = [
    "env=CartPole", "agent=classical", "optimizer=hybrid", "threads=1", "steps=6000",
    "logging.writers=[jsonl]",
]  # fmt: skip


def solvers(bits: int) -> dict[str, Solver]:
    """What the search is compared with, and itself."""
    return {
        "exact": Exact(),
        "qaoa p=3": QAOA(Statevector(), 3),
        "greedy": Greedy(),
        "annealing": Annealing(),
        "random": Random(),
        "separable": Separable(),
        "scalar": Scalar(bits),
    }


# Toys


class Still:
    """A landscape of one loss that needs no data."""

    def __init__(self, loss: Objective) -> None:
        self._loss = loss

    def full_batch(self) -> Objective:
        return self._loss

    def sub_batch(self, rows: int) -> None:
        return None

    def fresh(self, rows: int, seed: int) -> tuple[Tensor, Objective]:
        return self._loss().detach(), self._loss


def toys() -> dict[str, Callable[[torch.Generator], tuple[list[nn.Parameter], Objective, float]]]:
    """Six numbers, each a block: where they begin, the loss, and the target."""

    def rotation(source: torch.Generator) -> Tensor:
        return torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=source))[0]

    def numbers(start: Tensor) -> list[nn.Parameter]:
        return [nn.Parameter(value.reshape(1)) for value in start]

    def ill(source: torch.Generator) -> tuple[list[nn.Parameter], Objective, float]:
        turn, scale = rotation(source), torch.logspace(0, 3, 6, dtype=torch.float64)
        x = numbers(torch.randn(6, dtype=torch.float64, generator=source))

        def loss() -> Tensor:
            return 0.5 * (scale * (turn @ torch.cat(tuple(x))).square()).sum()

        return x, loss, 1e-2

    def saddle(source: torch.Generator) -> tuple[list[nn.Parameter], Objective, float]:
        turn, scale = rotation(source), torch.logspace(0, 2, 5, dtype=torch.float64)
        start = torch.randn(6, dtype=torch.float64, generator=source)
        start[0] *= 1e-3  # on the ridge between two minima
        x = numbers(turn.t() @ start)

        def loss() -> Tensor:
            u = turn @ torch.cat(tuple(x))
            return 0.25 * (u[0].square() - 1).square() + 0.5 * (scale * u[1:].square()).sum()

        return x, loss, 1e-2

    def rosenbrock(source: torch.Generator) -> tuple[list[nn.Parameter], Objective, float]:
        start = torch.tensor([-1.2, 1.0] * 3, dtype=torch.float64)
        x = numbers(start + 0.1 * torch.randn(6, dtype=torch.float64, generator=source))

        def loss() -> Tensor:
            a, b = torch.cat(tuple(x[::2])), torch.cat(tuple(x[1::2]))
            return (100 * (b - a.square()).square() + (1 - a).square()).sum()

        return x, loss, 1.0

    return {"ill-conditioned": ill, "saddle": saddle, "Rosenbrock": rosenbrock}


def steps_to(name: str, toy: str, levels: Levels, seed: int, limit: int) -> int | None:
    """Updates of Adam, alone or searched at every update, until the loss is at the target."""
    x, loss, target = toys()[toy](torch.Generator().manual_seed(seed))
    base = torch.optim.Adam(x, lr=0.05)
    optimizer = adapt(base)
    if name != "Adam":
        search = SolverSearch(solvers(levels.bits)[name], SHOTS)
        blocks = [ParameterGroup(str(k), [p]) for k, p in enumerate(x)]
        optimizer = HybridOptimizer(base, blocks, search, levels, every=1, seed=seed)
    for step in range(1, limit + 1):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step(landscape=lambda: Still(loss))
        if loss().item() <= target:
            return step
    return None


def print_toys(chosen: list[str], values: list[float], seeds: int, limit: int, out: Path) -> None:
    kept: dict[str, int | None] = json.loads(out.read_text()) if out.exists() else {}
    levels = Levels.of(values)
    print(f"median updates to the target (seeds that reached it within {limit}), {seeds} seeds, Adam lr 0.05")
    print(f"levels {values}, {6 * levels.bits} qubits, search at every update")
    names = ["Adam", *solvers(1)]
    print(f"{'':<18}" + "".join(f"{name:>14}" for name in names))
    for toy in chosen:
        cells = []
        for name in names:
            taken = []
            for seed in range(seeds):
                key = f"{toy} {name} {values} {limit} {seed}"
                if key not in kept:
                    kept[key] = steps_to(name, toy, levels, seed, limit)
                    out.write_text(json.dumps(kept))
                taken.append(kept[key])
            reached = [t for t in taken if t is not None]
            middle = median(t if t is not None else limit + 1 for t in taken)
            shown = f">{limit}" if middle > limit else f"{middle:g}"
            cells.append(f"{shown} ({len(reached)})")
        print(f"{toy:<18}" + "".join(f"{cell:>14}" for cell in cells), flush=True)


# Overhead


def print_overhead(pairs: int, updates: int, overrides: list[str]) -> None:
    """Processor time of the agent with the hybrid optimizer over that with its base, in turns."""
    with tempfile.TemporaryDirectory() as directory:
        runs = []
        for name in ("laprop", "hybrid"):
            words = [word for word in overrides if name == "hybrid" or not word.startswith("optimizer.")]
            config = load_config([*RUN, f"optimizer={name}", *words])
            (Path(directory) / name).mkdir()
            runs.append(Run(config, Path(directory) / name))
            for _ in range(400):
                runs[-1].collector.step(random=True)
        totals: list[list[float]] = [[], []]
        each: list[list[float]] = [[], []]  # of the hybrid: updates without a search, and with one
        for pair in range(pairs + 1):
            for which, run in enumerate(runs):
                times = []
                for _ in range(updates):
                    begin = process_time()
                    run.learner.update()
                    times.append(process_time() - begin)
                    if which == 1 and pair:
                        every = config.optimizer.every  # type: ignore[attr-defined]
                        each[run.learner.updates % every == 0].append(times[-1])
                if pair:  # the first warms up
                    totals[which].append(sum(times))
        for run in runs:
            run.close()
    ratios = np.array(totals[1]) / np.array(totals[0])
    again = np.random.default_rng(0).choice(ratios, size=(10_000, pairs))
    low, high = np.quantile(np.median(again, axis=1), (0.025, 0.975))
    plain, searched = (median(t) for t in each)
    print(f"update {1e3 * plain:.0f} ms; with a search {1e3 * searched:.0f} ms: "
          f"{(searched - plain) / plain:.2f} updates more")  # fmt: skip
    shown = f"{np.median(ratios):.3f} [{low:.3f}, {high:.3f}]"
    print(f"{pairs} pairs of {updates} updates: {shown} × the base's time")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("toys", "overhead"))
    parser.add_argument("--toys", nargs="+", choices=list(toys()), default=list(toys()))
    parser.add_argument("--levels", type=float, nargs="+", default=[0.0, 0.5, 1.0, 1.5], help="of toys")
    parser.add_argument("--seeds", type=int, default=10, help="of toys: how many")
    parser.add_argument("--limit", type=int, default=300, help="updates of toys")
    parser.add_argument("--pairs", type=int, default=20, help="of overhead")
    parser.add_argument("--updates", type=int, default=100, help="of a pair")
    parser.add_argument("--out", type=Path, default=Path("hybrid_toys.json"), help="of toys")
    parser.add_argument("overrides", nargs="*", help="settings of training")
    a = parser.parse_intermixed_args()
    torch.set_num_threads(1)
    if a.what == "toys":
        print_toys(a.toys, a.levels, a.seeds, a.limit, a.out)
    else:
        print_overhead(a.pairs, a.updates, a.overrides)


if __name__ == "__main__":
    main()

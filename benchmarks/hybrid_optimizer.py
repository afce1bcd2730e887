"""The hybrid optimizer beside its controls.

python -m benchmarks.hybrid_optimizer toys       steps to a target loss where Adam's direction is a bad one
python -m benchmarks.hybrid_optimizer overhead   what a search costs, in updates
python -m benchmarks.hybrid_optimizer searches [optimizer.num_qubits=12 …]   all solvers on real searches

`searches` trains with `optimizer=hybrid`. At every search all other solvers get the same problem on the
side; each choice passes the acceptance rule on fresh data and is then measured on a third batch that
played no part. The run itself is the one that it would have been without them. Finished seeds, of toys
as well, are kept in --out and not repeated, so it can be stopped and started again;
`benchmarks.qaoa quality --real` takes its problems of twelve qubits from there.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import mean, median, stdev
from time import process_time
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor, nn

from benchmarks.learning import Row, print_table, summarise
from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.optim.direction_search import SolverSearch
from qdreamer.agents.optim.hybrid_config import HybridConfig
from qdreamer.agents.optim.hybrid_optimizer import HybridOptimizer
from qdreamer.agents.optim.optimizer import LocalObjective, Objective, adapt
from qdreamer.agents.optim.parameter_groups import ParameterGroup, by_module
from qdreamer.agents.optim.quadratic_model import Levels, measure
from qdreamer.agents.reporting.progress import Progress
from qdreamer.agents.runs.run_directory import write_config
from qdreamer.agents.training.training import Run
from qdreamer.quantum.backends.statevector import Statevector
from qdreamer.quantum.circuits.sampling import new_seed
from qdreamer.quantum.qaoa.controls import Annealing, Exact, Greedy, Random, Scalar
from qdreamer.quantum.qaoa.ising import Ising, approximation_ratio, energies
from qdreamer.quantum.qaoa.qaoa import QAOA
from qdreamer.quantum.qaoa.solver import Solver

SHOTS = 1024
RUN = ["env=CartPole", "agent=classical", "optimizer=hybrid", "steps=6000", "logging.writers=[jsonl]"]
T_95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}  # two-sided


def solvers(bits: int) -> dict[str, Solver]:
    """What the search is compared with, and itself."""
    return {
        "exact": Exact(),
        "qaoa p=3": QAOA(Statevector(), 3),
        "greedy": Greedy(),
        "annealing": Annealing(),
        "random": Random(),
        "scalar": Scalar(bits),
    }


# Toys


class Still:
    """A landscape of one loss that needs no data."""

    def __init__(self, loss: Objective) -> None:
        self._loss = loss

    def full_batch(self) -> Objective:
        return self._loss

    def sub_batch(self, rows: int) -> Objective:
        return self._loss

    def fresh(self, rows: int, seed: int) -> Objective:
        return self._loss


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


def print_overhead(searches: int, overrides: list[str]) -> None:
    """CPU time of updates with a search beside those without, in turns."""
    config = load_config([*RUN, "optimizer.every=3", *overrides])
    default = load_config(RUN).optimizer
    assert isinstance(default, HybridConfig)
    with tempfile.TemporaryDirectory() as directory:
        run = Run(config, Path(directory))
        for _ in range(400):
            run.collector.step(random=True)
        times: list[list[float]] = [[], []]
        for k in range(3 * (searches + 1)):
            searched = isinstance(run.learner.optimizer, HybridOptimizer) and k % 3 == 2
            begin = process_time()
            run.learner.update()
            if k >= 3:
                times[searched].append(process_time() - begin)
        run.close()
    plain, searched_time = (median(t) for t in times)
    extra = (searched_time - plain) / plain
    print(f"update {1e3 * plain:.0f} ms CPU; with a search {1e3 * searched_time:.0f} ms: {extra:.2f} more")
    print(f"at K={default.every}: {1 + extra / default.every:.3f} × the time of the base optimizer")


# Searches of real training


class Panel(HybridOptimizer):
    """Trains as ever, and asks all solvers what they would have done at each of its searches."""

    results: list[dict[str, Any]]
    twelve: list[ParameterGroup]  # the world model in twelve blocks: problems for `benchmarks.qaoa`
    source: torch.Generator  # so that the run's own is left alone

    def _search(self, objective: LocalObjective, step: list[Tensor]) -> None:
        here = [p.clone() for p in self._parameters]
        self.results.append(self._ask(objective, step))
        self._set(here)
        super()._search(objective, step)

    def _ask(self, objective: LocalObjective, step: list[Tensor]) -> dict[str, Any]:
        model = measure(
            objective.full_batch(), objective.sub_batch(self.slice), self._parameters, self._block, step,
            self.epsilon,
        )  # fmt: skip
        before = [p.clone() for p in self._parameters]
        check, third = (objective.fresh(self.fresh, new_seed(self.source)) for _ in range(2))

        def losses(multipliers: Tensor) -> tuple[float, float]:
            self._set(self._moved(before, step, multipliers))
            return check().item(), third().item()

        ones = torch.ones_like(model.linear)
        here, base = losses(0.0 * ones)[1], losses(ones)
        ising = model.ising(self.levels)
        table = energies(ising, torch.float64)
        lowest = float(table.min())
        row: dict[str, Any] = {
            "update": self.updates,
            "base": here - base[1],
            "predicted": -float(model(ones)),
        }
        for name, solver in solvers(self.levels.bits).items():
            solution = solver.solve(ising, SHOTS, self.source)
            chosen = losses(self.levels.multipliers(solution.bits))
            accepted = chosen[0] <= base[0]
            row[name] = {
                "accepted": accepted,
                "gain": base[1] - chosen[1] if accepted else 0.0,
                "ratio": approximation_ratio(table, solution.energy),
                "hit": solution.energy <= lowest + 1e-9 * (1 + abs(lowest)),
                "mean": approximation_ratio(table, solution.mean),
            }
        self._set(before)
        twelve = self._problem(self.twelve, objective, step)
        return row | {"h": twelve.h.tolist(), "J": twelve.J.tolist()}

    def _problem(self, blocks: list[ParameterGroup], objective: LocalObjective, step: list[Tensor]) -> Ising:
        """The same search over other blocks of the same parameters."""
        steps = {id(p): d for p, d in zip(self._parameters, step, strict=True)}
        parameters: list[Tensor] = [p for block in blocks for p in block.parameters]
        sizes = torch.tensor([len(block.parameters) for block in blocks])
        block = torch.arange(len(blocks)).repeat_interleave(sizes)
        moved = [steps[id(p)] for p in parameters]
        model = measure(
            objective.full_batch(), objective.sub_batch(self.slice), parameters, block, moved, self.epsilon
        )
        return model.ising(self.levels)


def study(seed: int, overrides: list[str]) -> dict[str, Any]:
    """All searches of one run, and what it learned."""
    config = load_config([*RUN, f"seed={seed}", *overrides])
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        write_config(directory, config)
        run = Run(config, directory)
        optimizer = run.learner.optimizer
        assert isinstance(optimizer, HybridOptimizer)
        optimizer.__class__ = Panel
        assert isinstance(optimizer, Panel)
        optimizer.results = []
        optimizer.twelve = by_module(run.agent.world_model, 12 // optimizer.levels.bits)
        optimizer.source = torch.Generator().manual_seed(seed)
        run.train(Progress(config.steps, 0, 0))
        run.close()
        learned = asdict(summarise(directory, seed, None, 100))
    return {"searches": optimizer.results, "learned": learned}


def print_searches(seeds: list[int], out: Path, overrides: list[str]) -> None:
    kept: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    for seed in seeds:
        key = " ".join([f"seed={seed}", *overrides])
        if key not in kept:
            kept[key] = study(seed, overrides)
            out.write_text(json.dumps(kept))
    studies = [kept[" ".join([f"seed={seed}", *overrides])] for seed in seeds]
    print_table("CartPole", [Row(**study["learned"]) for study in studies], 100)
    groups = [study["searches"] for study in studies]
    rows = [row for group in groups for row in group]
    base = mean(row["base"] for row in rows)
    predicted = mean(row["predicted"] for row in rows)
    print(f"{len(rows)} searches, {len(seeds)} seeds; base step on the third batch: decrease {base:.4f}")
    print(f"(predicted {predicted:.4f}). Further decrease by the chosen step, rejected ones count as 0;")
    print("intervals: t of the seeds' means, or of all searches where there are fewer than 3 seeds")
    print(
        f"{'':<10}{'accepted':>9}{'further decrease [95 %]':>28}{'of base':>9}{'qaoa minus it [95 %]':>30}"
        f"{'ratio':>8}{'hits':>7}"
    )
    for name in solvers(1):
        gains = [[row[name]["gain"] for row in group] for group in groups]
        ahead = [[row["qaoa p=3"]["gain"] - row[name]["gain"] for row in group] for group in groups]
        accepted = mean(row[name]["accepted"] for row in rows)
        ratio, hits = mean(row[name]["ratio"] for row in rows), mean(row[name]["hit"] for row in rows)
        share = mean(x for g in gains for x in g) / base
        print(
            f"{name:<10}{accepted:>9.2f}{interval(gains, 4):>28}{share:>9.3f}{interval(ahead, 5):>30}"
            f"{ratio:>8.4f}{hits:>7.2f}"
        )
    print(f"mean ratio of the QAOA samples {mean(row['qaoa p=3']['mean'] for row in rows):.3f}, "
          f"of random ones {mean(row['random']['mean'] for row in rows):.3f}")  # fmt: skip


def interval(groups: list[list[float]], digits: int) -> str:
    """Mean over the seeds' means, with its t interval; searches of one run are not independent."""
    values = [mean(g) for g in groups] if len(groups) >= 3 else [x for g in groups for x in g]
    middle, half = mean(values), T_95.get(len(values), 1.96) * stdev(values) / len(values) ** 0.5
    return f"{middle:.{digits}f} [{middle - half:.{digits}f}, {middle + half:.{digits}f}]"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("toys", "overhead", "searches"))
    parser.add_argument("--toys", nargs="+", choices=list(toys()), default=list(toys()))
    parser.add_argument("--levels", type=float, nargs="+", default=[0.0, 0.5, 1.0, 1.5], help="of toys")
    parser.add_argument("--seeds", type=int, nargs="+", help="of searches; toys: how many")
    parser.add_argument("--limit", type=int, default=300, help="updates of toys")
    parser.add_argument("--searches", type=int, default=8, help="of overhead")
    parser.add_argument("--out", type=Path, help="hybrid_toys.json, hybrid_searches.json")
    parser.add_argument("overrides", nargs="*", help="settings of training, right after the word")
    a = parser.parse_args()
    torch.set_num_threads(1)
    if a.what == "toys":
        print_toys(a.toys, a.levels, (a.seeds or [10])[0], a.limit, a.out or Path("hybrid_toys.json"))
    elif a.what == "overhead":
        print_overhead(a.searches, a.overrides)
    else:
        print_searches(a.seeds or [0, 1, 2, 3, 4], a.out or Path("hybrid_searches.json"), a.overrides)


if __name__ == "__main__":
    main()

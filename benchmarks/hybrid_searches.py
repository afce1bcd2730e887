"""All solvers on the searches of real training: python -m benchmarks.hybrid_searches [setting=value …]

Trains with `optimizer=hybrid`. At every search all other solvers get the same problem on the side, in the
run's blocks and in those of twenty qubits; each choice passes the acceptance rule on fresh data and is then
measured on a third batch that played no part. So is what the best choice is worth where a search measures
less of the curvature. The run itself is the one that it would have been without them. Finished seeds are kept
in --out and not repeated, so it can be stopped and started again; `benchmarks.qaoa quality --real` takes its
problems of twenty qubits from there.
"""

import argparse
import functools
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any, cast

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor, nn

from benchmarks.hybrid_optimizer import RUN, SHOTS, solvers
from benchmarks.learning import Row, print_table, summarise
from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.optim.hybrid_optimizer import HybridOptimizer
from qdreamer.agents.optim.optimizer import LocalObjective, Objective
from qdreamer.agents.optim.parameter_groups import ParameterGroup, by_module
from qdreamer.agents.optim.quadratic_model import (
    Quadratic,
    RunningCurvature,
    curvature_rows,
    off_diagonal,
    slopes,
)
from qdreamer.agents.reporting.progress import Progress
from qdreamer.agents.runs.run_directory import write_config
from qdreamer.agents.training.training import Run
from qdreamer.quantum.circuits.sampling import new_seed
from qdreamer.quantum.qaoa.controls import Exact
from qdreamer.quantum.qaoa.ising import Ising, approximation_ratio, energies

T_95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}  # two-sided
WIDE = 20  # qubits
SLICE = 4  # sequences, where less than the batch is looked at
VARIANTS: dict[str, int | None] = {"all rows": None, "four in turn": 4, "two in turn": 2, "one in turn": 1}


class Panel(HybridOptimizer):
    """Trains as ever, and asks all solvers what they would have done at each of its searches.

    In the run's blocks and in those of twenty qubits; and with less of the curvature than all of it.
    """

    results: list[dict[str, Any]]
    wide: list[ParameterGroup]
    running: dict[str, RunningCurvature]
    source: torch.Generator  # so that the run's own is left alone

    def _search(self, objective: LocalObjective, step: list[Tensor]) -> None:
        here = [p.clone() for p in self._parameters]
        self.results.append(self._ask(objective, step))
        self._set(here)
        super()._search(objective, step)

    def _ask(self, objective: LocalObjective, step: list[Tensor]) -> dict[str, Any]:
        """Return what came of every solver and variant: see `print_searches` and `print_savings`."""
        before = [p.clone() for p in self._parameters]
        check, third = (objective.fresh(self.fresh, new_seed(self.source)) for _ in range(2))
        ids = {id(p): k for k, p in enumerate(self._parameters)}

        @functools.cache
        def losses(factors: tuple[float, ...]) -> tuple[float, float]:
            """On the batch that accepts and on a third, of one factor for each parameter."""
            moved = torch._foreach_add(before, torch._foreach_mul(step, list(factors)))
            self._set(list(moved))
            return check[1]().item(), third[1]().item()

        base = losses((1.0,) * len(before))
        here = third[0].item()

        def outcome(model: Quadratic, ising: Ising, bits: Tensor, block: list[int]) -> dict[str, Any]:
            multipliers = self.levels.multipliers(bits)
            chosen = losses(tuple(multipliers[block].tolist()))
            accepted = chosen[0] <= base[0]
            return {
                "accepted": accepted,
                "gain": base[1] - chosen[1] if accepted else 0.0,
                "predicted": -float(model(multipliers)),
                "actual": here - chosen[1],
            }

        def pose(
            loss: Objective, groups: list[ParameterGroup], gradient: Objective
        ) -> tuple[Quadratic, list[int], Tensor]:
            """Return the whole model of these blocks, the block of each parameter, and the rows."""
            self._set(before)
            order = [ids[id(p)] for group in groups for p in group.parameters]
            sizes = torch.tensor([len(group.parameters) for group in groups])
            block = torch.arange(len(groups)).repeat_interleave(sizes)
            of = [self._parameters[k] for k in order], block, [step[k] for k in order]
            rows = curvature_rows(loss, slopes(loss, *of), *of, self.epsilon, range(len(groups)))
            linear = slopes(gradient, *of)
            of_each = torch.empty(len(order), dtype=torch.long).index_copy_(0, torch.tensor(order), block)
            return Quadratic(linear, 0.5 * (rows + rows.t())), of_each.tolist(), rows

        row: dict[str, Any] = {"update": self.updates, "base": here - base[1]}
        whole, part, own = objective.full_batch(), objective.sub_batch(SLICE), self._block.tolist()
        assert part is not None
        parameters = cast(list[nn.Parameter], self._parameters)
        narrow_blocks = [
            ParameterGroup(name, [p for p, b in zip(parameters, own, strict=True) if b == k])
            for k, name in enumerate(self._names)
        ]
        for size, groups in (("own", narrow_blocks), ("wide", self.wide)):
            model, block, rows = pose(whole, groups, whole)
            ising = model.ising(self.levels)
            table = energies(ising, torch.float64)
            lowest, found = float(table.min()), {}
            for name, solver in solvers(self.levels.bits).items():
                solution = solver.solve(ising, SHOTS, self.source)
                found[name] = outcome(model, ising, solution.bits, block) | {
                    "ratio": approximation_ratio(table, solution.energy),
                    "hit": solution.energy <= lowest + 1e-9 * (1 + abs(lowest)),
                    "mean": approximation_ratio(table, solution.mean),
                }
            fields, couplings = float(ising.h.abs().sum()), float(ising.J.abs().sum())
            row[size] = found | {
                "predicted_base": -float(model(torch.ones_like(model.linear))),
                "off_diagonal": off_diagonal(model.curvature),
                "couplings": couplings / (fields + couplings),
                "blocks": len(groups),
            }
            if size == "own":
                row["savings"] = self._savings(model, rows, step, outcome)
                row["savings"][f"{SLICE} sequences"] = self._exact(pose(part, groups, whole)[0], outcome)
                row["savings"]["gradient, too"] = self._exact(pose(part, groups, part)[0], outcome)
            else:
                row |= {"h": ising.h.tolist(), "J": ising.J.tolist()}
        self._set(before)
        return row

    def _savings(
        self, model: Quadratic, rows: Tensor, step: list[Tensor], outcome: Callable[..., dict[str, Any]]
    ) -> dict[str, Any]:
        """What the best bits are worth where less of the curvature is known."""
        lengths = self._lengths(step)
        known = {
            name: running.update(chosen := running.turn(lengths), rows[chosen], lengths)
            for name, running in self.running.items()
        }
        known["diagonal only"] = model.curvature.diagonal().diag()
        return {
            name: self._exact(Quadratic(model.linear, curvature), outcome)
            for name, curvature in known.items()
        }

    def _exact(self, model: Quadratic, outcome: Callable[..., dict[str, Any]]) -> dict[str, Any]:
        ising = model.ising(self.levels)
        bits = Exact().solve(ising, SHOTS, self.source).bits
        return outcome(model, ising, bits, self._block.tolist())


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
        optimizer.wide = by_module(run.agent.world_model, WIDE // optimizer.levels.bits)
        blocks = len(optimizer._names)
        optimizer.running = {key: RunningCurvature(blocks, rows) for key, rows in VARIANTS.items()}
        optimizer.source = torch.Generator().manual_seed(seed)
        run.train(Progress(config.steps, 0, 0))
        run.close()
        learned = asdict(summarise(directory, seed, config.env.solved, 100))
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
    print(f"{len(rows)} searches, {len(seeds)} seeds; base step on the third batch: decrease {base:.4f}")
    print("Further decrease by the chosen step, rejected ones count as 0; intervals: t of the seeds' means,")
    print("or of all searches where there are fewer than 3 seeds")
    for size in ("own", "wide"):
        print_solvers([[row[size] for row in group] for group in groups], base)
    print_savings([[row["savings"] for row in group] for group in groups])


def print_solvers(groups: list[list[dict[str, Any]]], base: float) -> None:
    rows = [row for group in groups for row in group]
    shares = (
        interval([[row[key] for row in group] for group in groups], 3)
        for key in ("off_diagonal", "couplings")
    )
    print(f"\n{rows[0]['blocks']} blocks; off-diagonal share of the Hessian, of couplings among all terms:",
          *shares)  # fmt: skip
    print(
        f"{'':<10}{'accepted':>9}{'further decrease [95 %]':>28}{'of base':>9}{'exact minus it [95 %]':>30}"
        f"{'ratio':>8}{'hits':>7}"
    )
    for name in solvers(1):
        gains = [[row[name]["gain"] for row in group] for group in groups]
        ahead = [[row["exact"]["gain"] - row[name]["gain"] for row in group] for group in groups]
        accepted = mean(row[name]["accepted"] for row in rows)
        ratio, hits = mean(row[name]["ratio"] for row in rows), mean(row[name]["hit"] for row in rows)
        share = mean(x for g in gains for x in g) / base
        print(
            f"{name:<10}{accepted:>9.2f}{interval(gains, 4):>28}{share:>9.3f}{interval(ahead, 5):>30}"
            f"{ratio:>8.4f}{hits:>7.2f}"
        )
    print(f"mean ratio of the QAOA samples {mean(row['qaoa p=3']['mean'] for row in rows):.3f}, "
          f"of random ones {mean(row['random']['mean'] for row in rows):.3f}")  # fmt: skip


def print_savings(groups: list[list[dict[str, Any]]]) -> None:
    """What the exact solution is worth with less of the curvature: predicted and actual decrease."""
    print("\nexact solution, by what is known of the curvature (of the whole batch but in the last two rows)")
    print(f"{'':<14}{'predicted':>10}{'actual':>9}{'accepted':>9}{'further decrease [95 %]':>28}"
          f"{'all rows minus it [95 %]':>30}")  # fmt: skip
    rows = [row for group in groups for row in group]
    for name in rows[0]:
        figures = [mean(row[name][key] for row in rows) for key in ("predicted", "actual", "accepted")]
        gains = [[row[name]["gain"] for row in group] for group in groups]
        behind = [[row["all rows"]["gain"] - row[name]["gain"] for row in group] for group in groups]
        print(f"{name:<14}{figures[0]:>10.4f}{figures[1]:>9.4f}{figures[2]:>9.2f}"
              f"{interval(gains, 4):>28}{interval(behind, 5):>30}")  # fmt: skip


def interval(groups: list[list[float]], digits: int) -> str:
    """Mean over the seeds' means, with its t interval; searches of one run are not independent."""
    values = [mean(g) for g in groups] if len(groups) >= 3 else [x for g in groups for x in g]
    middle, half = mean(values), T_95.get(len(values), 1.96) * stdev(values) / len(values) ** 0.5
    return f"{middle:.{digits}f} [{middle - half:.{digits}f}, {middle + half:.{digits}f}]"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, default=Path("hybrid_searches.json"))
    parser.add_argument("overrides", nargs="*", help="settings of training")
    a = parser.parse_intermixed_args()
    torch.set_num_threads(1)
    print_searches(a.seeds, a.out, a.overrides)


if __name__ == "__main__":
    main()

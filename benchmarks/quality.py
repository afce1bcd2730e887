"""World-model quality at equal parameters: python -m benchmarks.quality [--tasks recall] [--tables].

Held-out prediction on CartPole and Pendulum with hidden velocities and on associative recall, for the GRU
(coupled and decoupled posterior) and transformers whose attention is softmax, coherent, born or elu-linear.
Every cell (task, kind, seed) trains the world model alone on the same batches in the same order. Each
kind gets the same grid of learning rates on a tuning seed; what is best there is used on seeds that
were touched by nothing before. Finished cells are in <out>/cells.jsonl and are not repeated.
"""

import argparse
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from time import process_time
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.quality_data import CARTPOLE, PENDULUM, Data, Stream, recall_data
from benchmarks.quality_models import SETTINGS, build, parameters
from benchmarks.recall import VALUE_BITS, Recall
from qdreamer import native
from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.dreamer import Dreamer
from qdreamer.agents.optim.laprop import LaProp, LaPropConfig
from qdreamer.agents.reporting.openloop import open_loop
from qdreamer.envs.entries import ENTRY

RATES = (1.5e-3, 3e-3, 6e-3)
TUNING_SEED = 1000
SEEDS = (0, 1, 2, 3, 4)
WARMUP = 50
CONTEXT, HORIZON = 5, 15
RECALL = Recall()
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 8: 2.365, 10: 2.262}
"""97.5 % quantiles of t with n − 1 degrees of freedom, by n."""

ALSO = ("persistence, 1", "persistence, 15", "wrong")

Row = dict[str, Any]
Scores = dict[str, float]


class Task(NamedTuple):
    """length: T of the training windows, and the attention's window. whole: windows are whole episodes.

    rows: of experience to learn from. scores: what is measured, lower is better.
    """

    data: Callable[[int, int, int], Data]  # seed, rows, held-out episodes
    rows: int
    held_out: int
    batch: int
    length: int
    whole: bool
    updates: int
    tuned: str  # task whose tuning seed chooses the learning rate
    scores: tuple[str, ...]
    measure: Callable[[Dreamer, Data], Scores]


def errors(agent: Dreamer, data: Data) -> Scores:
    """Standardised MSE one and fifteen steps ahead, and persistence's."""
    result = open_loop(agent, [e.for_evaluation() for e in data.test], CONTEXT, HORIZON)
    assert result is not None
    return {
        "1 step": float(result.model_error[0]),
        "15 steps": float(result.model_error[-1]),
        "persistence, 1": float(result.persistence_error[0]),
        "persistence, 15": float(result.persistence_error[-1]),
    }


def recalled(agent: Dreamer, data: Data) -> Scores:
    """Of the answers, one step ahead: squared error per bit and share of wrong values."""
    asked = [RECALL.pairs + i for i in range(RECALL.pairs)]  # rows before answers
    points = sum(len(e.actions) for e in data.test)
    result = open_loop(agent, [e.for_evaluation() for e in data.test], 1, 1, max_starts=points)
    assert result is not None
    predicted, true = (  # (episodes, pairs, VALUE_BITS)
        x[:, 0, :VALUE_BITS].reshape(len(data.test), -1, VALUE_BITS)[:, asked] for x in result.entries[ENTRY]
    )
    return {
        "error": float(np.square(predicted - true).mean()),
        "wrong": float((np.sign(predicted) != true).any(-1).mean()),
    }


STEERED: dict[str, Any] = {
    "rows": 10_000, "batch": 8, "length": 32, "whole": False, "updates": 600,
    "tuned": "cartpole", "scores": ("1 step", "15 steps"), "measure": errors,
}  # fmt: skip
TASKS = {
    "cartpole": Task(CARTPOLE.data, held_out=40, **STEERED),
    "pendulum": Task(PENDULUM.data, held_out=20, **STEERED),
    # As many rows as are learned from: the rule is to be learned, not the episodes.
    "recall": Task(
        partial(recall_data, RECALL), rows=800 * 16 * RECALL.rows, held_out=40, batch=16,
        length=RECALL.rows, whole=True, updates=800, tuned="recall", scores=("error",), measure=recalled,
    ),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--kinds", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--tables", action="store_true", help="train nothing, print what is there")
    a = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    cells = Cells(a.out)
    for task in a.tasks:
        if not a.tables:
            native.use(True)
            fill(cells, task, a.kinds, a.seeds)
        print_task(cells, task, a.kinds, a.seeds)


def fill(cells: "Cells", task: str, kinds: list[str], seeds: list[int]) -> None:
    """Train and measure what is missing."""
    for kind in kinds:
        for lr in RATES:
            cells.get(TASKS[task].tuned, kind, TUNING_SEED, lr)
    for seed in seeds:
        for kind in kinds:
            cells.get(task, kind, seed, cells.best(task, kind))


class Cells:
    """The results so far, one JSON line each; weights of the first seed are kept for pictures."""

    def __init__(self, out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.out = out
        self._file = out / "cells.jsonl"
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        self._known = list(map(json.loads, lines))

    def get(self, task: str, kind: str, seed: int, lr: float) -> Row:
        """Train and measure, unless that was done."""
        for row in self.rows(task, kind):
            if (row["seed"], row["lr"]) == (seed, lr):
                return row
        row, agent = run(task, kind, seed, lr)
        if seed == SEEDS[0]:
            torch.save(agent.world_model.state_dict(), self.weights(task, kind))
        with self._file.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)
        self._known.append(row)
        return row

    def rows(self, task: str, kind: str) -> list[Row]:
        return [row for row in self._known if (row["task"], row["kind"]) == (task, kind)]

    def find(self, task: str, kind: str, seed: int) -> Row | None:
        """A finished cell of a seed that was not tuned on."""
        return next((row for row in self.rows(task, kind) if row["seed"] == seed), None)

    def tuning(self, task: str, kind: str) -> list[Row]:
        rows = [row for row in self.rows(task, kind) if row["seed"] == TUNING_SEED]
        return sorted(rows, key=lambda row: row["lr"])

    def best(self, task: str, kind: str) -> float:
        """The learning rate with the least geometric mean of scores on the tuning seed."""
        tuned = TASKS[task].tuned
        rows = self.tuning(tuned, kind)
        return min(rows, key=lambda row: math.prod(row[s] for s in TASKS[tuned].scores))["lr"]

    def weights(self, task: str, kind: str) -> Path:
        return self.out / f"{task}-{kind}.pt"


def run(name: str, kind: str, seed: int, lr: float) -> tuple[Row, Dreamer]:
    """One cell."""
    task = TASKS[name]
    begin = process_time()
    data = task.data(seed, task.rows, task.held_out)
    agent = build(kind, data.observation, data.action, task.length, seed)
    stream = Stream(data, task.length, seed, task.whole)
    train(agent, stream, task.updates, task.batch, lr, seed)
    trained = process_time()
    row = {"task": name, "kind": kind, "seed": seed, "lr": lr, "parameters": parameters(agent)}
    row |= task.measure(agent, data)
    return row | {"seconds": round(trained - begin, 1)}, agent


def train(agent: Dreamer, stream: Stream, updates: int, batch: int, lr: float, seed: int) -> None:
    """The world model alone, with the agent's loss and optimizer; lr falls linearly to 0.

    Every window begins without memory, for the GRU too.
    """
    model, settings = agent.world_model, load_config(["agent=classical"]).optimizer
    assert isinstance(settings, LaPropConfig)
    scales = model.loss_scales
    optimizer = LaProp(
        [p for p in model.parameters() if p.requires_grad],
        lr=lr,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
        agc=settings.agc,
        agc_pmin=settings.agc_pmin,
        warmup=WARMUP,
    )
    generator = torch.Generator().manual_seed(seed)
    for update in range(updates):
        optimizer.param_groups[0]["lr"] = lr * (1.0 - update / updates)
        sequences = stream.batch(batch, model.rssm.initial(batch))
        model.obs_normalizer.update(sequences.observation, lambda rows: rows)
        noise = model.rssm.noise(*sequences.reward.shape, generator=generator)
        losses, _ = model.loss(sequences, noise)
        optimizer.zero_grad(set_to_none=True)
        torch.stack([losses[name].mean() * scale for name, scale in scales.items()]).sum().backward()
        optimizer.step()


def geometric(values: list[float]) -> float:
    return math.exp(mean(math.log(x) for x in values))


def log_ratio(ours: list[float], base: list[float]) -> tuple[float, float, float]:
    """Geometric mean of the ratios of pairs, and its 95 % t-interval on the logarithms."""
    logs = [math.log(a / b) for a, b in zip(ours, base, strict=True)]
    middle, half = mean(logs), STUDENT[len(logs)] * stdev(logs) / len(logs) ** 0.5
    return math.exp(middle), math.exp(middle - half), math.exp(middle + half)


def print_task(cells: Cells, name: str, kinds: list[str], seeds: list[int]) -> None:
    """Geometric means over seeds, ratios to softmax and to the GRU, single seeds; then the tuning."""
    task = TASKS[name]
    done: dict[str, list[Row]] = {}
    for kind in kinds:
        found = [cells.find(name, kind, seed) for seed in seeds]
        if all(found):
            done[kind] = [row for row in found if row is not None]
    bases = ("softmax", "gru", "gru-decoupled")
    print(f"\n{name}: {task.updates} updates of {task.batch}×{task.length} rows, seeds {seeds}")
    for score in task.scores:
        print(f"\n| {name}, {score}" + " | error | / " + " | / ".join(bases) + " | seeds |")
        print("|---" * 6 + "|")
        for kind, rows in done.items():
            values = [row[score] for row in rows]
            ratios = [
                "{:.2f} [{:.2f}, {:.2f}]".format(*log_ratio(values, [r[score] for r in done[base]]))
                if base in done and base != kind
                else ""
                for base in bases
            ]
            singles = " ".join(f"{x:.3g}" for x in values)
            print(f"| {kind} | {geometric(values):.3g} | {' | '.join(ratios)} | {singles} |")
    print("\n| kind | parameters | lr | tuning: " + ", ".join(map("{:g}".format, RATES)) + " | s | also |")
    print("|---" * 6 + "|")
    for kind, rows in done.items():
        tried = "; ".join(
            ", ".join(f"{r[s]:.3g}" for s in TASKS[task.tuned].scores) for r in cells.tuning(task.tuned, kind)
        )
        also = ", ".join(f"{k} {mean(r[k] for r in rows):.3g}" for k in rows[0] if k in ALSO)
        seconds = mean(r["seconds"] for r in rows)
        print(
            f"| {kind} | {rows[0]['parameters']:,} | {rows[0]['lr']:g} | {tried} | {seconds:.0f} | {also} |"
        )


if __name__ == "__main__":
    main()

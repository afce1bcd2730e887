"""Weights made by circuits (`worldmodel/weights`): what their simulation costs, what they learn, controls.

python -m benchmarks.generated_weights times [--repeats 5]
python -m benchmarks.generated_weights counts
python -m benchmarks.generated_weights digits [--seeds 5] [--write docs/data/generated-weights.jsonl]
python -m benchmarks.generated_weights table docs/data/generated-weights.jsonl

`digits` needs scikit-learn (`pip install 'qdreamer[digits]'`), whose 1,797 pictures come with it. A network
64-32-10 (ReLU, 2,410 weights) learns 1,000 of them in 400 steps of Adam, 100 pictures each, cosine decay.
Each row's learning rate is the best of three on 297 pictures and a seed of its own, at 229 parameters (three
seeds for small networks); accuracy is on the other 500 pictures.
"""

import argparse
import json
import math
import os
import re
import statistics
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qdreamer.quantum.circuits.entangling import amplitudes, entangling_circuit, probabilities
from qdreamer.quantum.circuits.shots import update_cost
from qdreamer.worldmodel.weights.generated import generate
from qdreamer.worldmodel.weights.generator import WEIGHTS, WeightGenerator
from qdreamer.worldmodel.weights.quantum_train import QuantumTrain

torch.set_num_threads(1)
STEPS, BATCH, UNITS = 400, 100, 32
RATES = (0.01, 0.03, 0.1)
TUNING_SEEDS = (1000, 1001, 1002)
STUDENT = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 10: 2.26}  # 97.5 % quantile of t with so many seeds
SIZES = (85, 229, 589)
LAST = ("quantum_train as published", "quantum_train, ReLU, chunks of 16")  # in the order of work


class Cell(NamedTuple):
    """A row of the table at one size; `generator` None is a plain network of `units`."""

    row: str
    size: int
    generator: str | None
    settings: dict[str, Any]
    units: int = UNITS
    scaled: bool = True


def cells() -> Iterator[Cell]:
    """Yield all cells. Circuits of 12 qubits have 72 angles a block."""
    affine: dict[str, Any] = {"mapping": ()}
    relu = {85: (1, 1), 229: (2, 5), 589: (4, 20)}  # blocks, hidden units
    for size, blocks in zip(SIZES, (1, 3, 8), strict=True):
        yield Cell("quantum_train, affine", size, "quantum_train", {"blocks": blocks, **affine})
        yield Cell("affine, no entanglers", size, "separable_circuit", {"blocks": 2 * blocks, **affine})
        if size == 229:  # what learns, 14 numbers, does not depend on the size
            yield Cell("affine, frozen circuit", size, "frozen_circuit", {"blocks": blocks, **affine})
        learned, hidden = relu[size]
        with_relu = {"mapping": (hidden,), "activation": "relu"}
        yield Cell("quantum_train, ReLU", size, "quantum_train", {"blocks": learned, **with_relu})
        yield Cell("ReLU, no entanglers", size, "separable_circuit", {"blocks": 2 * learned, **with_relu})
        larger = {"blocks": learned, "mapping": ((size - 1) // 15,), "activation": "relu"}
        yield Cell("ReLU, frozen circuit", size, "frozen_circuit", larger)
        yield Cell("projection", size, "projection", {"parameters": size})
        yield Cell("hashed", size, "hashed", {"parameters": size})
        yield Cell("low_rank", size, "low_rank", {"parameters": max(size, 99)})
        yield Cell("mlp_generator", size, "mlp_generator", {"parameters": size})
        yield Cell("small network", size, None, {}, units=(size - 10) // 75)
    published = {"blocks": 5, "mapping": (4, 20, 4), "alpha": 0.3, "beta": 0.8, "gamma": 0.1}
    yield Cell("quantum_train as published", 589, "quantum_train", published, scaled=False)
    chunks = {"blocks": 4, "mapping": (14,), "activation": "relu", "chunk": 16}
    yield Cell("quantum_train, ReLU, chunks of 16", 589, "quantum_train", chunks)
    yield Cell("all weights trained", 2410, None, {})


@cache
def digits() -> tuple[Tensor, Tensor]:
    """Return pictures (1797, 64) in [0, 1] and their classes."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise SystemExit("digits come with scikit-learn: pip install 'qdreamer[digits]'") from None
    data = load_digits()
    return torch.tensor(data.data / 16.0, dtype=torch.float32), torch.tensor(data.target)


def train(cell: Cell, rate: float, seed: int) -> dict[str, float]:
    """Return accuracies, the numbers of parameters and seconds of one run."""
    pictures, classes = digits()
    order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(seed))
    learn, validate, test = order.split([1000, 297, 500])
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(64, cell.units), nn.ReLU(), nn.Linear(cell.units, 10))
    if cell.generator is not None:
        part: Any = WEIGHTS[cell.generator].part
        generate(network, lambda count: part(count, **cell.settings), cell.scaled, every_forward=True)
    parameters = list(network.parameters())
    optimizer = torch.optim.Adam(parameters, rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    begin = time.process_time()
    for _ in range(STEPS):
        rows = learn[torch.randint(len(learn), (BATCH,))]
        loss = F.cross_entropy(network(pictures[rows]), classes[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    seconds = time.process_time() - begin
    with torch.no_grad():
        right = network(pictures).argmax(-1) == classes
    found = {name: float(right[rows].float().mean()) for name, rows in
             (("train", learn), ("validation", validate), ("test", test))}  # fmt: skip
    return {**found, "parameters": sum(p.numel() for p in parameters), "seconds": seconds}


def print_digits(seeds: int, path: Path | None) -> None:
    """Run all cells, one line each; with a path also keep them as JSON lines, and go on where those end."""
    done = read(path) if path is not None and path.exists() else []
    rates = {d["row"]: d["rate"] for d in done}
    for cell in sorted(cells(), key=lambda cell: (cell.size != 229, cell.row in LAST, -cell.size)):
        if any((d["row"], d["size"]) == cell[:2] for d in done):
            continue
        if cell.row not in rates:
            rates[cell.row] = tuned(cell)
        rate = rates[cell.row]
        runs = [train(cell, rate, seed) for seed in range(seeds)]
        record = {
            "row": cell.row, "size": cell.size, "generator": cell.generator, "settings": cell.settings,
            "scaled": cell.scaled, "rate": rate, "parameters": runs[0]["parameters"],
            "test": [run["test"] for run in runs], "train": [run["train"] for run in runs],
            "seconds": statistics.mean(run["seconds"] for run in runs),
        }  # fmt: skip
        print(f"{cell.row:<38}{cell.size:>6}{described(record['test']):>18}  lr {rate}", flush=True)
        if path is not None:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")


def tuned(cell: Cell) -> float:
    """Return the learning rate with the highest mean accuracy on validation pictures."""
    seeds = TUNING_SEEDS if cell.generator is None else TUNING_SEEDS[:1]  # two units may die by bad luck
    found = {rate: statistics.mean(train(cell, rate, seed)["validation"] for seed in seeds) for rate in RATES}
    return max(found, key=lambda rate: found[rate])


def described(values: list[float], digits: int = 3) -> str:
    """Return the mean with its 95 % interval (Student's t), shares without the 0 before their point."""
    half = STUDENT[len(values)] * statistics.stdev(values) / math.sqrt(len(values))
    return re.sub(r"\b0\.", ".", f"{statistics.mean(values):.{digits}f} ± {half:.{digits}f}")


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def print_table(path: Path) -> None:
    """Print the table of docs/generated-weights.md."""
    found = read(path)
    rows = dict.fromkeys(d["row"] for d in found)
    print("| | " + " | ".join(f"about {size}" for size in SIZES) + " | ms per step |")
    print("|---" * (len(SIZES) + 2) + "|")
    for row in rows:
        mine = {d["size"]: d for d in found if d["row"] == row}
        texts = [
            f"{described(mine[s]['test'])} ({mine[s]['parameters']})" if s in mine else "–" for s in SIZES
        ]
        others = [d for size, d in mine.items() if size not in SIZES]
        extra = "".join(f", {described(d['test'])} ({d['parameters']:,})" for d in others)
        slowest = max(d["seconds"] for d in mine.values()) / STEPS * 1e3
        print(f"| {row}{extra} | {' | '.join(texts)} | {slowest:.1f} |")


def pennylane_probabilities(blocks: int, qubits: int) -> Callable[[Tensor], Any]:
    """Return the same circuit in PennyLane's own gates, differentiated by backprop: its fastest for torch."""
    import pennylane as qml

    def circuit(angles: Tensor) -> Any:
        for block in range(blocks):
            for q in range(qubits):
                qml.U3(*angles[block, 0, q].unbind(), wires=q)
            for q in range(qubits):
                qml.ctrl(qml.U3, control=q)(*angles[block, 1, q].unbind(), wires=(q + 1) % qubits)
        return qml.probs(wires=range(qubits)[::-1])

    return qml.QNode(circuit, qml.device("default.qubit", wires=range(qubits)[::-1]), interface="torch")


def print_times(repeats: int) -> None:
    """Print processor milliseconds of a forward pass and of one with gradients, in turns."""
    print(f"{'qubits':>6}{'blocks':>7}{'forward':>10}{'with gradients':>16}{'PennyLane':>11}{'ratio':>7}")
    for qubits, blocks in ((10, 5), (13, 8), (13, 16), (15, 5), (16, 16)):
        angles = (math.pi * (2 * torch.rand(blocks, 2, qubits, 3) - 1)).requires_grad_()
        slopes = torch.randn(2**qubits)
        theirs = pennylane_probabilities(blocks, qubits) if qubits < 15 else None

        def ours(angles: Tensor) -> Tensor:
            return probabilities(amplitudes(angles))

        def both(make: Any, angles: Tensor = angles, slopes: Tensor = slopes) -> float:
            begin = time.process_time()
            torch.autograd.grad((make(angles) * slopes).sum(), angles)
            return 1e3 * (time.process_time() - begin)

        def forward(angles: Tensor = angles) -> float:
            begin = time.process_time()
            with torch.no_grad():
                ours(angles)
            return 1e3 * (time.process_time() - begin)

        forward(), both(ours)
        found: list[list[float]] = [[], [], []]
        for _ in range(repeats):
            found[0].append(statistics.median(forward() for _ in range(10)))
            found[1].append(statistics.median(both(ours) for _ in range(10)))
            if theirs is not None:
                found[2].append(both(theirs))
        mine, grads = statistics.median(found[0]), statistics.median(found[1])
        other = statistics.median(found[2]) if theirs is not None else math.nan
        print(
            f"{qubits:>6}{blocks:>7}{mine:>10.1f}{grads:>16.1f}{other:>11.0f}{other / grads:>7.1f}",
            flush=True,
        )


def print_counts() -> None:
    """Print published sizes, and what an update would cost on a device."""
    print(
        f"{'':<28}{'weights':>8}{'qubits':>7}{'blocks':>7}{'parameters':>11}{'CX':>6}{'shots':>9}{'hours':>7}"
    )
    classification: dict[str, Any] = {"mapping": (4, 20, 4), "alpha": 0.3, "beta": 0.8, "gamma": 0.1}
    cases: list[tuple[str, int, dict[str, Any]]] = [
        ("QTRL, CartPole", 898, {"blocks": 5, "mapping": (10, 10, 10)}),
        *((f"QT-{n}, MNIST", 6690, {"blocks": n, **classification}) for n in (1, 4, 7, 10, 13, 16)),
        ("default actor", 26_114, {}),
    ]
    for name, count, settings in cases:
        made: WeightGenerator = QuantumTrain(count, **settings)
        assert isinstance(made, QuantumTrain)
        blocks = len(made.angles)
        cost, circuit = update_cost(blocks, made.qubits), entangling_circuit(blocks, made.qubits)
        hours = cost.shots * 250e-6 / 3600  # IBM's default delay between shots; gates take less
        print(
            f"{name:<28}{count:>8}{made.qubits:>7}{blocks:>7}{made.parameter_count:>11}"
            f"{circuit.two_qubit_gates:>6}{cost.shots:>9.1e}{hours:>7.1f}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("times").add_argument("--repeats", type=int, default=5)
    commands.add_parser("counts")
    learning = commands.add_parser("digits")
    learning.add_argument("--seeds", type=int, default=5, choices=sorted(STUDENT))
    learning.add_argument("--write", type=Path)
    commands.add_parser("table").add_argument("file", type=Path)
    options = parser.parse_args()
    if options.command == "times":
        print_times(options.repeats)
    elif options.command == "counts":
        print_counts()
    elif options.command == "digits":
        print_digits(options.seeds, options.write)
    else:
        print_table(options.file)

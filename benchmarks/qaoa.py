"""QAOA: times beside Aer and lightning.qubit, and what is found beside simpler ways.

python -m benchmarks.qaoa times      one run, one thread, medians of CPU time
python -m benchmarks.qaoa quality    approximation ratios and hit rates on random dense QUBOs, or with
    --real FILES on those of searches in real training (written by benchmarks.hybrid_searches)
python -m benchmarks.qaoa devices    gates and estimated fidelity on fake devices
"""

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median
from time import process_time
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch, Aer and lightning start their threads

import numpy as np
import torch

from qdreamer.quantum.backends.statevector import Statevector
from qdreamer.quantum.qaoa.ansatz import IsingTask, angles
from qdreamer.quantum.qaoa.controls import Annealing, Exact, Greedy, Random
from qdreamer.quantum.qaoa.ising import Ising, approximation_ratio, energies, energy, from_qubo
from qdreamer.quantum.qaoa.qaoa import QAOA
from qdreamer.quantum.qaoa.simulator import Simulator
from qdreamer.quantum.qaoa.solver import Solver

LAYERS = 3
SHOTS = 1024


def random_qubo(n: int, source: torch.Generator) -> torch.Tensor:
    """Q (n, n) with normal entries."""
    return torch.randn(n, n, generator=source, dtype=torch.float64)


def seconds(run: Callable[[], Any], repeats: int) -> float:
    """Median CPU time after one call to warm up: with one thread, what others do does not count."""
    run()
    taken = []
    for _ in range(repeats):
        begin = process_time()
        run()
        taken.append(process_time() - begin)
    return median(taken)


def own(ising: Ising, source: torch.Generator) -> dict[str, Callable[[], Any]]:
    """From the problem's coefficients to the answer: energies of all strings included."""
    chosen = angles(ising, LAYERS)
    return {
        "expectation": lambda: Simulator(ising).expectation(chosen),
        "samples": lambda: Simulator(ising).sample(chosen, SHOTS, source),
    }


def aer(task: IsingTask) -> dict[str, Callable[[], Any]]:
    """Bound circuits on AerSimulator, complex64; expectations in two ways."""
    from qiskit.quantum_info import SparsePauliOp
    from qiskit_aer import AerSimulator

    from qdreamer.quantum.backends.qiskit_sampler import translate

    simulator = AerSimulator(method="statevector", precision="single", max_parallel_threads=1)
    measured = translate(task.circuit()).assign_parameters(task.values()[0].numpy())
    bare = measured.remove_final_measurements(inplace=False)
    table = energies(task.ising).numpy()
    observed, saved = bare.copy(), bare.copy()
    terms = [("Z", [i], float(h)) for i, h in enumerate(task.ising.h)]
    terms += [("ZZ", [i, j], float(task.ising.J[i, j])) for i, j in task.ising.edges]
    operator = SparsePauliOp.from_sparse_list(terms, task.ising.qubits)
    observed.save_expectation_value(operator, range(task.ising.qubits))
    saved.save_probabilities()
    return {
        "expectation (operator)": lambda: simulator.run(observed).result().data(),
        "expectation (probabilities)": lambda: simulator.run(saved).result().data()["probabilities"] @ table,
        "samples": lambda: simulator.run(measured, shots=SHOTS).result().get_counts(),
    }


def lightning(task: IsingTask) -> dict[str, Callable[[], Any]]:
    """QNodes on lightning.qubit, complex64; its expectation in two ways."""
    import pennylane as qml

    from qdreamer.quantum.backends.pennylane_backend import apply

    n, values = task.ising.qubits, task.values()[0].numpy()
    device = qml.device("lightning.qubit", wires=n, c_dtype=np.complex64)
    ising, circuit = task.ising, task.circuit()
    coefficients = [*ising.h.tolist(), *(float(ising.J[i, j]) for i, j in ising.edges)]
    pauli = [qml.Z(i) for i in range(n)] + [qml.Z(i) @ qml.Z(j) for i, j in ising.edges]
    operator = qml.Hamiltonian(coefficients, pauli)
    table = energies(ising).numpy()

    def node(measure: Callable[[], Any], shots: int | None = None) -> Callable[[], Any]:
        def program() -> Any:
            apply(circuit, values)
            return measure()

        made = qml.QNode(program, device, interface=None, diff_method=None)
        return made if shots is None else qml.set_shots(made, shots=shots)

    probabilities = node(lambda: qml.probs(wires=range(n - 1, -1, -1)))
    return {
        "expectation (operator)": node(lambda: qml.expval(operator)),
        "expectation (probabilities)": lambda: probabilities() @ table,
        "samples": node(lambda: qml.sample(wires=range(n)), SHOTS),
    }


def print_times(sizes: list[int], repeats: int) -> None:
    source = torch.Generator().manual_seed(0)
    print(f"p={LAYERS}, {SHOTS} samples, one thread, CPU ms; Aer and lightning start from bound circuits")
    print(f"{'n':>3}  {'':<28}{'own':>9}{'Aer':>9}{'lightning':>11}{'ratio':>10} of the faster to own")
    for n in sizes:
        ising = from_qubo(random_qubo(n, source))
        task = IsingTask(ising, angles(ising, LAYERS))
        ways = {"own": own(ising, source), "aer": aer(task), "lightning": lightning(task)}
        # Round after round, so that a slow spell of the machine meets all alike.
        times: dict[str, dict[str, list[float]]] = {w: {k: [] for k in ways[w]} for w in ways}
        for _ in range(repeats):
            for way, runs in ways.items():
                for what, run in runs.items():
                    times[way][what].append(seconds(run, 1))
        medians = {w: {k: median(v) for k, v in t.items()} for w, t in times.items()}
        for what in ("expectation (operator)", "expectation (probabilities)", "samples"):
            mine = medians["own"][what.split()[0]]
            a, b = medians["aer"][what], medians["lightning"][what]
            ratio = min(a, b) / mine
            print(f"{n:>3}  {what:<28}{1e3 * mine:>9.2f}{1e3 * a:>9.1f}{1e3 * b:>11.1f}{ratio:>10.1f}")
        qubo = random_qubo(n, source)
        solver = QAOA(Statevector(), LAYERS)

        def search(qubo: torch.Tensor = qubo, solver: QAOA = solver) -> Any:
            return solver.solve(from_qubo(qubo), SHOTS, source)

        print(f"{n:>3}  {'search':<28}{1e3 * seconds(search, 3 * repeats):>9.2f}  (QUBO in, best bits out)")


def random_problems(sizes: list[int], count: int) -> dict[str, list[Ising]]:
    out = {}
    for n in sizes:
        source = torch.Generator().manual_seed(n)
        out[f"n={n}"] = [from_qubo(random_qubo(n, source)) for _ in range(count)]
    return out


def real_problems(files: list[Path], count: int) -> dict[str, list[Ising]]:
    """`count` problems of twelve qubits, evenly over the searches of all runs."""
    runs = [run["searches"] for file in files for run in json.loads(file.read_text()).values()]
    rows = [row for run in runs for row in run]
    if len(rows) < count:
        raise SystemExit(f"{len(rows)} searches are fewer than --problems {count}")
    chosen = [rows[k * len(rows) // count] for k in range(count)]
    return {"real": [Ising(torch.tensor(row["h"]), torch.tensor(row["J"])) for row in chosen]}


def print_quality(problems: dict[str, list[Ising]]) -> None:
    counts = ", ".join(f"{name}: {len(made)}" for name, made in problems.items())
    print(f"problems {counts}; ratio (Emax − E)/(Emax − Emin)")
    print("\nmean ratio of the QAOA expectation, fixed angles")
    depths = (1, 2, 3, 5, 8)
    print(f"{'':<6} " + "".join(f"{f'p={p}':>8}" for p in depths) + f"{'ramp p=3':>10}{'uniform':>9}")
    sets = {name: [(ising, energies(ising)) for ising in made] for name, made in problems.items()}
    for name, pairs in sets.items():
        rows = [expectations(ising, table, depths) for ising, table in pairs]
        columns = [mean(column) for column in zip(*rows, strict=True)]
        line = "".join(f"{x:>8.3f}" for x in columns[:-2])
        print(f"{name:<6} {line}{columns[-2]:>10.3f}{columns[-1]:>9.3f}")
    for shots in (16, 64, SHOTS):
        print(f"\n{shots} samples: ratio of the best one (share of problems whose optimum was found)")
        solvers: dict[str, Solver] = {f"qaoa p={p}": QAOA(Statevector(), p) for p in (1, 3, 5)}
        solvers["qaoa p=3 warm"] = QAOA(Statevector(), 3, "warm")
        solvers["qaoa p=3 opt."] = QAOA(Statevector(), 3, "optimized")
        solvers |= {"random": Random(), "greedy ×1": Greedy(1), "greedy ×20": Greedy(20)}
        solvers |= {"annealing": Annealing(), "exact": Exact()}
        print(f"{'':<15}" + "".join(f"{name:>16}" for name in sets))
        for title, solver in solvers.items():
            slow = title.endswith("opt.")  # a hundred simulations each
            cells = [
                None if slow and pairs[0][0].qubits > 16 else found(solver, pairs, shots)
                for pairs in sets.values()
            ]
            print(f"{title:<15}" + "".join(cell(x) for x in cells), flush=True)


def expectations(ising: Ising, table: torch.Tensor, depths: tuple[int, ...]) -> list[float]:
    simulator = Simulator(ising)
    chosen = [angles(ising, p) for p in depths] + [angles(ising, 3, "ramp")]
    values = [float(simulator.expectation(a)) for a in chosen] + [float(table.mean())]
    return [approximation_ratio(table, value) for value in values]


def cell(figures: tuple[float, float] | None) -> str:
    return f"{'–':>16}" if figures is None else f"{figures[0]:>9.4f} ({figures[1]:>4.0%})"


def found(solver: Solver, problems: list[tuple[Ising, torch.Tensor]], shots: int) -> tuple[float, float]:
    """Mean ratio of the best sample, and how often it is the optimum."""
    ratios, hits = [], 0
    for k, (ising, table) in enumerate(problems):
        best = solver.solve(ising, shots, torch.Generator().manual_seed(k)).bits
        index = int((best.long() << torch.arange(ising.qubits)).sum())
        ratios.append(approximation_ratio(table, float(table[index])))
        lowest = float(energy(ising, best)) - float(table.min())
        hits += lowest <= 1e-5 * float(table.max() - table.min())
    return mean(ratios), hits / len(problems)


def print_devices(names: list[str]) -> None:
    from qdreamer.quantum.backends.device import fake_device, transpile
    from qdreamer.quantum.backends.qiskit_sampler import translate
    from qdreamer.quantum.circuits.fidelity import estimate
    from qdreamer.quantum.circuits.grover_rudolph import loading_circuit
    from qdreamer.quantum.circuits.overlaps import overlap_circuit

    source = torch.Generator().manual_seed(0)
    circuits = {}
    for n, p in ((4, 1), (5, 3), (8, 1), (8, 3), (12, 1), (12, 3)):
        ising = from_qubo(random_qubo(n, source))
        circuits[f"QAOA n={n} p={p}"] = IsingTask(ising, angles(ising, p)).circuit()
    circuits |= {f"amplitudes n={n}": loading_circuit(n) for n in (3, 5, 8)}
    circuits |= {f"overlap n={n}": overlap_circuit(n) for n in (3, 4)}
    for name in names:
        device = fake_device(name)
        print(f"\n{name}: best of 4 layouts")
        print(f"{'circuit':<20}{'as written':>11}{'2-qubit':>9}{'depth':>7}{'fidelity':>10}{'µs':>7}")
        for title, circuit in circuits.items():
            figures = estimate(transpile(translate(circuit), device, 3), device.target)
            print(
                f"{title:<20}{circuit.two_qubit_gates:>11}{figures.two_qubit_gates:>9}{figures.depth:>7}"
                f"{figures.fidelity:>10.2f}{1e6 * figures.seconds:>7.1f}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=("times", "quality", "devices"))
    parser.add_argument("--sizes", type=int, nargs="+", default=[8, 12, 16, 20])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--problems", type=int, default=50)
    parser.add_argument("--real", type=Path, nargs="+", help="hybrid_searches.json")
    parser.add_argument("--names", nargs="+", default=["FakeGuadalupeV2", "FakeFez"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.what == "times":
        print_times(arguments.sizes, arguments.repeats)
    elif arguments.what == "quality":
        files, count = arguments.real, arguments.problems
        print_quality(real_problems(files, count) if files else random_problems(arguments.sizes, count))
    else:
        print_devices(arguments.names)


if __name__ == "__main__":
    main()

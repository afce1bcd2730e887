"""What choosing 4 of 12 candidates by QAOA is worth: python -m benchmarks.diverse_batches [--groups 240].

Groups of candidates with random latents (of a few kinds, so that some are alike) and exponential
priorities. For each solver of `replay.diverse=qubo`: the objective, and as a share of the way from random to
exact, with a 95 % interval over groups; the effective sample size of the importance factors per sequence,
and by how much a weighted mean of the priorities is off, without a floor and with one of 0.1; milliseconds of
a batch of 16. Boltzmann distributions over the listed energies stand beside those of QAOA, as far on the
way. `--noise` counts shots of the right weight on a fake device, `--fit` looks for angles
(`quantum.qaoa.xy.ANGLES`).
"""

import argparse
from statistics import median
from time import process_time
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.replay.config import make_selection
from qdreamer.agents.replay.diversity.features import likeness
from qdreamer.agents.replay.diversity.qubo import pose
from qdreamer.quantum.backends.factory import make_backend
from qdreamer.quantum.circuits.backend import device_estimate, run
from qdreamer.quantum.qaoa import xy
from qdreamer.quantum.qaoa.penalty import Penalty
from qdreamer.quantum.qaoa.subsets import SUBSET_SOLVERS, SubsetProblem

N, K = 12, 4
BATCH, LENGTH, VARIABLES, CLASSES, KINDS = 16, 16, 8, 8, 6
NEAR = {1: (1.1, 0.45), 2: (0.7, 1.3, 0.5, 0.3), 3: (0.6, 1.0, 1.6, 0.5, 0.4, 0.25)}  # where a fit begins
DEVICE = "FakeGuadalupeV2"


def candidates(count: int, random: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return latents (M, T, S) of sequences of a few kinds, more or less disturbed, and weights (M,)."""
    kinds = random.integers(CLASSES, size=(KINDS, LENGTH, VARIABLES))
    stoch = kinds[random.integers(KINDS, size=count)]
    other = random.random(stoch.shape) < random.random((count, 1, 1))
    stoch = np.where(other, random.integers(CLASSES, size=stoch.shape), stoch)
    return stoch.astype(np.uint8), (1 / (0.05 + random.exponential(size=count))).astype(np.float32)


def problems(groups: int, seed: int, n: int = N, k: int = K) -> SubsetProblem:
    """Return problems as `Qubo.select` poses them, four groups from each set of candidates."""
    random = np.random.default_rng(seed)
    posed = []
    for _ in range(-(-groups // 4)):
        stoch, weights = candidates(4 * n, random)
        rows = np.arange(4 * n).reshape(4, n)
        alike = likeness(stoch, np.ones(4 * n, np.bool_))[rows[:, :, None], rows[:, None]]
        priorities = weights.min() / weights[rows].astype(np.float64)
        posed.append(pose(priorities, alike, 1.0, k).quadratic)
    return SubsetProblem(torch.cat(posed)[:groups], k)


def share(problem: SubsetProblem, found: Tensor) -> Tensor:
    """Return where the mean energy lies between random's (0) and the lowest (1), of each problem (G,)."""
    mean, low = problem.energies.mean(1), problem.energies.amin(1)
    return (mean - (found * problem.energies).sum(1)) / (mean - low)


def boltzmann(problem: SubsetProblem, target: float) -> Tensor:
    """Return the distributions (G, N) at the temperature, in deviations, whose mean share is `target`."""
    steep = -problem.energies / problem.energies.std(1, keepdim=True)

    low, high = 0.0, 100.0
    for _ in range(40):
        inverse = (low + high) / 2
        found = torch.softmax(inverse * steep, 1)
        reached = float(share(problem, found).mean()) > target
        low, high = (low, inverse) if reached else (inverse, high)
    return found


def factors(problem: SubsetProblem, found: Tensor, floor: float) -> tuple[float, float]:
    """Return the effective sample size of a sequence, and the relative error of the mean priority."""
    included = ((1 - floor) * found + floor / found.shape[1]) @ problem.subsets.bits  # (G, n)
    possible = included > 0
    factor = torch.where(possible, problem.k / (possible.sum(1, keepdim=True) * included), 0.0)
    priorities = -problem.quadratic.diagonal(dim1=1, dim2=2)
    mean, square = ((included * x).sum(1).mean() / problem.k for x in (factor * priorities, factor.square()))
    return float(1 / square), float(mean / priorities.mean() - 1)


def table(groups: int) -> None:
    problem = problems(groups, seed=1)
    print(f"{groups} groups of {K} of {N}: objective, share of the way from random to exact")
    print(f"{'':<18} {'':>9} {'':>22} {'floor 0':>15} {'floor 0.1':>15}")
    print(f"{'':<18} {'objective':>9} {'share':>22} {'ESS':>6} {'bias':>8} {'ESS':>6} {'bias':>8} {'ms':>6}")
    for name in ("xy", "penalty"):
        for layers in (1, 2, 3):
            solver = SUBSET_SOLVERS[name].part.make(SimpleNamespace(layers=layers))
            found = solver.probabilities(problem)
            words = f"replay.qubo.solver={name}", f"replay.qubo.layers={layers}"
            line(f"{name}, p = {layers}", problem, found, *words)
            if name == "xy":
                line("  as Boltzmann", problem, boltzmann(problem, float(share(problem, found).mean())))
            else:
                kept = float(Penalty(layers).kept(problem).sum(1).mean())
                print(f"  {kept:.1%} of shots have the right weight")
    for name in ("exact", "greedy", "annealing", "random"):
        found = SUBSET_SOLVERS[name].part.make(None).probabilities(problem)
        line(name, problem, found, f"replay.qubo.solver={name}")
    print(f"dpp of the same 48 takes {milliseconds('replay.diverse=dpp'):.1f} ms")


def line(name: str, problem: SubsetProblem, found: Tensor, *words: str) -> None:
    each, random = share(problem, found).numpy(), np.random.default_rng(0)
    again = each[random.integers(len(each), size=(2000, len(each)))].mean(1)
    low, high = np.quantile(again, (0.025, 0.975))
    objective = -float((found * problem.energies).sum(1).mean())
    print(f"{name:<18} {objective:>9.3f} {each.mean():>6.3f} [{low:.3f}, {high:.3f}]", end=" ")
    for size, bias in (factors(problem, found, floor) for floor in (0.0, 0.1)):
        print(f"{size:>6.2f} {bias:>8.1%}", end=" ")
    print(f"{milliseconds('replay.diverse=qubo', *words):>6.1f}" if words else "", flush=True)


def milliseconds(*words: str) -> float:
    """Return the processor's time to choose 16 of 48, everything included; median of 21."""
    selection = make_selection(load_config(["replay=prioritized", *words]).replay, seed=0)
    stoch, weights = candidates(3 * BATCH, np.random.default_rng(0))
    times = []
    for _ in range(22):
        begin = process_time()
        selection.select(stoch, np.ones(len(stoch), np.bool_), weights, BATCH)
        times.append(1e3 * (process_time() - begin))
    return median(times[1:])


def fit(groups: int) -> None:
    """Print the angles of the best mean share, by Adam."""
    problem = problems(groups, seed=0)
    deviation = problem.energies.std(1, keepdim=True, correction=0)
    for layers, begin in NEAR.items():
        x = torch.tensor(begin, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.Adam([x], lr=0.03)
        for _ in range(60):
            angles = xy.XYAngles(x[:layers] / deviation, x[layers:])
            mean = share(problem, xy.amplitudes(problem, angles).abs().square()).mean()
            optimizer.zero_grad()
            (-mean).backward()
            optimizer.step()
        gamma, beta = ([round(v, 3) for v in part.tolist()] for part in (x[:layers], x[layers:]))
        print(f"p = {layers}: γ {gamma}, β {beta}: {float(mean.detach()):.3f}", flush=True)


def noise(shots: int) -> None:
    """Print how often the weight survives, p = 1; random bits would have it C(n, k)/2^n of the time."""
    for name, words in (("aer", ()), ("aer_noisy", (f"quantum.device={DEVICE}",))):
        backend: Any = make_backend(load_config([f"quantum={name}", *words]).quantum)
        for n, k in ((4, 2), (6, 2), (9, 3), (12, 4)):
            problem = problems(1, 0, n, k)
            task = xy.XYTask(problem, xy.fixed_angles(problem, 1))
            cost = device_estimate(backend, task.circuit())
            kept = len(task.drawn(run(backend, [task], shots, 0).bits[0][0])) / shots
            gates = f"{cost.two_qubit_gates} CX, fidelity {cost.fidelity:.2g}" if cost else "ideal"
            by_chance = len(problem.subsets) / 2**n
            print(f"{name}, {k} of {n}: {gates}; kept {kept:.1%}, by chance {by_chance:.1%}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", type=int, default=240)
    parser.add_argument("--shots", type=int, default=500)
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--noise", action="store_true")
    a = parser.parse_args()
    torch.set_num_threads(1)
    if a.fit:
        fit(60)
    elif a.noise:
        noise(a.shots)
    else:
        table(a.groups)


if __name__ == "__main__":
    main()

"""What amplitude estimation is worth in replay: python -m benchmarks.amplitude_estimation.

The mean of 2^n priorities (as shares of the largest), by uses of the circuit A that reads them in
superposition (`quantum.circuits.grover.MeanOracle`): maximum likelihood over Grover powers, and the same
circuit without amplification. Beside them, what needs no circuit: the mean of priorities that are drawn and
read (one call each), and the exact sum (2^n calls). RMSE over sets of priorities and many trials, whose shots
are drawn from the closed form that the tests compare circuits with; slopes are fitted on a log scale.

    --noise     each call keeps κ of the coherence: how much more accurate than counting, at equal calls
    --device    the same on a noisy simulator of a device, with circuits
    --blocks    importance weights when block weights are counted, estimated, or taken from the tree
"""

import argparse
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qdreamer.agents.cli.composition import load_config
from qdreamer.quantum.backends.factory import make_backend
from qdreamer.quantum.circuits.amplitude_estimation import (
    Schedule,
    estimate,
    good_probability,
    measure,
)
from qdreamer.quantum.circuits.backend import device_estimate
from qdreamer.quantum.circuits.grover import BlockOracle, GroverTask, MeanOracle

Numbers = NDArray[np.float64]
N, SETS, TRIALS, SHOTS = 10, 8, 200, 64
COHERENCES = (1.0, 0.9999, 0.999, 0.99, 0.97, 0.95, 0.9, 0.8, 0.7)
DEVICE = "FakeFez"


def priorities(n: int, seed: int) -> Tensor:
    """Return (1, 2^n) numbers in [0, 1] as errors of sequences are: log-normal, to the power 0.6."""
    errors = np.random.default_rng(seed).lognormal(size=2**n) ** 0.6
    return torch.from_numpy(errors / errors.max())[None]


def drawn(
    oracle: MeanOracle | BlockOracle, schedule: Schedule, coherence: float, trials: int, seed: Any
) -> Tensor:
    """Return hits (trials, K), drawn from the closed form."""
    kept = torch.tensor(coherence, dtype=torch.float64)
    p = good_probability(torch.asin(oracle.probability.sqrt()), schedule, kept, oracle.mixed)
    hits = np.random.default_rng(seed).binomial(schedule.shots, p.expand(trials, -1).numpy())
    return torch.from_numpy(hits).double()


def amplified_errors(
    oracle: MeanOracle | BlockOracle, schedule: Schedule, coherence: float, trials: int, seed: int
) -> Numbers:
    """Return relative errors (trials,) of the estimate, κ being known to it."""
    hits = drawn(oracle, schedule, coherence, trials, seed)
    found = estimate(hits, schedule, oracle.mixed, coherence).probability
    return (found / oracle.probability - 1).numpy()


def read_errors(x: Tensor, calls: int, trials: int, seed: int) -> Numbers:
    """Return relative errors (trials,) of the mean of `calls` numbers, drawn with replacement and read."""
    numbers, random = x[0].numpy(), np.random.default_rng(seed)
    means = np.stack([numbers[random.integers(len(numbers), size=calls)].mean() for _ in range(trials)])
    return np.asarray(means / numbers.mean() - 1)


def amplified(sets: Sequence[MeanOracle], schedule: Schedule, coherence: float = 1.0, seed: int = 0) -> float:
    """Root mean square of relative errors over sets of priorities."""
    found = [amplified_errors(x, schedule, coherence, TRIALS, seed + k) for k, x in enumerate(sets)]
    return float(np.sqrt(np.mean(np.square(found))))


def read(sets: Sequence[MeanOracle], calls: int) -> float:
    """The same of reading."""
    found = [read_errors(x.numbers, calls, TRIALS, k) for k, x in enumerate(sets)]
    return float(np.sqrt(np.mean(np.square(found))))


def slope(calls: Sequence[int], errors: Sequence[float]) -> tuple[float, float]:
    """Return the exponent of RMSE over calls, and its standard error."""
    x, y = np.log(calls), np.log(errors)
    fitted, residuals, *_ = np.polyfit(x, y, 1, full=True)
    spread = math.sqrt(float(residuals[0]) / (len(x) - 2) / float(np.square(x - x.mean()).sum()))
    return float(fitted[0]), spread


def table(plot: Path | None) -> None:
    sets = [MeanOracle(priorities(N, seed)) for seed in range(SETS)]
    schedules = [Schedule.doubling(last, SHOTS) for last in range(2, 11)]
    calls = [schedule.calls for schedule in schedules]
    methods: dict[str, list[float]] = {
        "amplitude estimation": [amplified(sets, schedule) for schedule in schedules],
        "counting shots of A": [amplified(sets, Schedule((0,), count)) for count in calls],
        "reading drawn priorities": [read(sets, count) for count in calls],
    }
    print(
        f"relative RMSE of the sum of 2^{N} priorities; {SETS} sets, {TRIALS} trials, {SHOTS} shots a power"
    )
    print(f"{'largest power':>14} {'calls':>7} " + " ".join(f"{name:>25}" for name in methods))
    for i, schedule in enumerate(schedules):
        figures = " ".join(f"{errors[i]:>25.2e}" for errors in methods.values())
        print(f"{schedule.powers[-1]:>14} {calls[i]:>7} {figures}")
    for name, errors in methods.items():
        value, spread = slope(calls, errors)
        print(f"{name}: slope {value:.3f} ± {spread:.3f}")
    print(f"the exact sum: error 0, {2**N} calls")
    if plot is not None:
        draw(plot, calls, methods)


def draw(path: Path, calls: Sequence[int], methods: dict[str, list[float]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for (name, errors), marker in zip(methods.items(), "osD", strict=True):
        axes.loglog(calls, errors, marker=marker, label=f"{name} (slope {slope(calls, errors)[0]:.2f})")
    axes.axvline(2**N, color="gray", linestyle=":", label=f"exact sum: {2**N} calls, error 0")
    axes.set_xlabel("oracle calls")
    axes.set_ylabel("relative RMSE")
    axes.set_title(f"Sum of 2^{N} priorities")
    axes.legend()
    figure.savefig(path, dpi=110)


def noise() -> None:
    """Doubling schedules of about 1,000, 10,000 and 100,000 calls beside counting as many.

    The schedule is the best on other trials than those of the figure.
    """
    sets = [MeanOracle(priorities(N, seed)) for seed in range(SETS)]
    budgets = 1000, 10_000, 100_000
    print("RMSE of counting, and of reading drawn priorities (which has no noise), over that of the best")
    print("doubling schedule at equal calls (its largest power)")
    print(f"{'κ per call':>12} " + " ".join(f"{calls:>18,}" for calls in budgets))
    for coherence in COHERENCES:
        cells = []
        for budget in budgets:
            units = [Schedule.doubling(last, 1) for last in range(11)]
            able = [Schedule(unit.powers, shots) for unit in units if (shots := budget // unit.calls) >= 16]

            errors = [amplified(sets, schedule, coherence, seed=1000) for schedule in able]
            best = able[int(np.argmin(errors))]
            error = amplified(sets, best, coherence)
            counted = amplified(sets, Schedule((0,), best.calls), coherence) / error
            reading = read(sets, best.calls) / error
            cells.append(f"{counted:.2f} {reading:.2f} ({best.powers[-1]})")
        print(f"{coherence:>12} " + " ".join(f"{cell:>18}" for cell in cells), flush=True)


def device(shots: int, sets: int) -> None:
    """Circuits on a noisy simulator: κ is fitted beside the mean. Counting takes as many calls, at one κ."""
    words = ["quantum=aer_noisy", f"quantum.device={DEVICE}"]
    backend: Any = make_backend(load_config(words).quantum)
    print(
        f"{DEVICE}'s noise, {shots} shots of each power 0, 1, 2, 4; {sets} sets of 2^n priorities: root mean"
    )
    print("square of errors relative to the mean, their ratio with its 95 % bootstrap interval over sets")
    print(f"{'n':>3} {'CX of A, Q':>12} {'κ':>7} {'amplified':>10} {'counted':>8} {'ratio':>20}")
    for n in (1, 2, 3):
        example = MeanOracle(priorities(n, 0))
        costs = [device_estimate(backend, GroverTask(example, power).circuit()) for power in (0, 1)]
        assert costs[0] is not None and costs[1] is not None
        plain, turn = costs[0].two_qubit_gates, costs[1].two_qubit_gates - costs[0].two_qubit_gates
        schedule = Schedule(Schedule.doubling(3, shots).powers, shots, loss=turn / plain)
        rows = []
        for seed in range(sets):
            oracle = MeanOracle(priorities(n, seed))
            result = estimate(measure(backend, oracle, schedule, seed), schedule, coherence=None)
            count = (
                float(measure(backend, oracle, Schedule((0,), schedule.calls), seed)[0, 0]) / schedule.calls
            )
            true = float(oracle.probability)
            rows.append((float(result.probability) / true - 1, count / true - 1, float(result.coherence)))
        errors = np.array(rows)  # (sets, 3)
        squares = np.square(errors[:, :2])
        again = squares[np.random.default_rng(0).integers(sets, size=(2000, sets))].mean(1)
        low, high = np.quantile(np.sqrt(again[:, 0] / again[:, 1]), (0.025, 0.975))
        found, counted = np.sqrt(squares.mean(0))
        print(
            f"{n:>3} {f'{plain}, {turn}':>12} {errors[:, 2].mean():>7.3f} {found:>10.4f} {counted:>8.4f} "
            f"{f'{found / counted:.2f} [{low:.2f}, {high:.2f}]':>20}",
            flush=True,
        )


def blocks(qubits: int, shots: int, trials: int) -> None:
    """Weighted means of x over draws from a device's shots, by what block weights are taken for q.

    The device draws (1 − λ) of its shots by priority, the rest at random. Draws are the shots themselves.
    """
    size, random = 2**qubits, np.random.default_rng(0)
    weights = priorities(qubits, 0)[0].numpy()
    target = weights / weights.sum()
    x = random.normal(loc=weights / weights.mean(), size=size)  # what is averaged goes with priority
    floor = 0.1
    print(
        f"{size} blocks, {shots} shots of a device, floor {floor}: "
        f"relative error of a weighted mean over {trials} pools"
    )
    print(f"{'noise λ':>8} {'q taken from':>24} {'bias':>9} {'RMSE':>8}")
    for depolarized in (0.0, 0.1, 0.4):
        actual = (1 - depolarized) * target + depolarized / size
        errors: dict[str, list[float]] = defaultdict(list)
        for trial in range(trials):
            counts = random.multinomial(shots, actual)
            draws = np.concatenate(
                [
                    np.repeat(
                        np.arange(size), random.multinomial(round((1 - floor) * shots), counts / shots)
                    ),
                    random.integers(size, size=round(floor * shots)),
                ]
            )
            known = {
                "counts (ours)": counts / shots,
                "estimates, equal calls": estimated(weights, shots, 1 - depolarized, trial),
                "estimates, 20 × calls": estimated(weights, 20 * shots, 1 - depolarized, trial),
                "the tree": target,
            }
            for name, share in known.items():
                q = (1 - floor) * share + floor / size
                errors[name].append(float((x[draws] / (size * q[draws])).mean() / x.mean() - 1))
        for name, found in errors.items():
            e = np.array(found)
            half = 1.96 * e.std() / math.sqrt(len(e))
            print(
                f"{depolarized:>8} {name:>24} {e.mean():>+9.4f} ± {half:.4f} "
                f"{np.sqrt(np.square(e).mean()):>8.4f}"
            )


def estimated(weights: Numbers, calls: int, coherence: float, seed: int) -> Numbers:
    """Return block weights, each estimated with powers 0, 1, 2 from its part of so many calls; κ is known."""
    tensor, schedule = torch.from_numpy(weights)[None], Schedule((0, 1, 2), 1)
    schedule = Schedule(schedule.powers, max(calls // len(weights) // schedule.calls, 1))
    out = []
    for block in range(len(weights)):
        oracle = BlockOracle(tensor, block)
        hits = drawn(oracle, schedule, coherence, 1, [seed, block])
        out.append(float(estimate(hits, schedule, oracle.mixed, coherence).probability))
    return np.array(out) / sum(out)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--noise", action="store_true")
    parser.add_argument("--device", action="store_true")
    parser.add_argument("--blocks", action="store_true")
    parser.add_argument("--shots", type=int, default=200, help="of --device")
    parser.add_argument("--sets", type=int, default=40, help="of --device")
    parser.add_argument("--plot", type=Path)
    a = parser.parse_args()
    torch.set_num_threads(1)
    if a.noise:
        noise()
    elif a.device:
        device(a.shots, a.sets)
    elif a.blocks:
        blocks(4, 1024, 200)
    else:
        table(a.plot)


if __name__ == "__main__":
    main()

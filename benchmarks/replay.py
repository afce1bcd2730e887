"""What replay costs: python -m benchmarks.replay [--steps 1000000] [--circuits].

In one process and on one thread, medians, candidates in turn: draws and updates of 1,024 sequences
beside cpprb (if it is installed: pip install cpprb), and in plain NumPy; by themselves, their growth
with the number of steps; a batch of vector sequences with its gather; memory; a checkpoint. `--circuits` adds
the time of a job and of a draw from its pool for simulators and a fake IBM device. `--lost` prints
nothing but the share of the time of finished runs that was lost to quantum jobs.
"""

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch

from benchmarks.learning import read_metrics
from qdreamer import native
from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.replay.config import make_sampler
from qdreamer.agents.replay.prioritized import PrioritizedSampler
from qdreamer.agents.replay.quantum import warm_up
from qdreamer.agents.replay.sampler import Eligible, Sampler, Starts
from qdreamer.agents.replay.storage import Replay
from qdreamer.agents.runs import checkpoint
from qdreamer.agents.runs.config import Config
from qdreamer.quantum.backends.factory import make_backend
from qdreamer.quantum.circuits.backend import run
from qdreamer.quantum.circuits.grover_rudolph import AmplitudeTask
from qdreamer.quantum.jobs.access import CircuitAccess
from qdreamer.quantum.jobs.budget import CircuitBudget

COUNT = 1024  # draws and updates
BATCH, LENGTH = 16, 64
FIELDS: dict[str, tuple[tuple[int, ...], Any]] = {  # CartPole's, without stored latents
    "observation": ((4,), np.float32),
    "action": ((2,), np.float32),
    "reward": ((), np.float32),
    "is_first": ((), np.bool_),
    "is_last": ((), np.bool_),
    "is_terminal": ((), np.bool_),
}
CIRCUITS = (("aer", ()), ("aer_noisy", ()), ("ibm", ("quantum.device=FakeGuadalupeV2",)))


def sampler_of(config: Config, directory: Path) -> Sampler:
    """The sampler of a run's config."""
    circuits = CircuitAccess(config.quantum, directory, CircuitBudget())
    return make_sampler(config.replay, config.env.num_envs, config.train.batch_length, config.seed, circuits)


class Ours:
    """A sampler over `steps` starts of one environment, all with a priority."""

    def __init__(self, name: str, steps: int, directory: Path, *overrides: str) -> None:
        settings = (f"replay={name}", f"replay.capacity={steps}", *overrides)
        sampler = sampler_of(load_config(list(settings)), directory)
        assert isinstance(sampler, PrioritizedSampler)
        self.sampler = sampler
        self.eligible = Eligible(np.zeros(1, np.int64), np.array([steps]))
        self.draw()
        rows = np.arange(steps)
        self.sampler.update(Starts(np.zeros(steps, np.int64), rows), errors(steps))

    def draw(self) -> Starts:
        return self.sampler.draw(COUNT, self.eligible)[0]

    def sample(self) -> None:
        """As many draws as a batch has."""
        self.sampler.draw(BATCH, self.eligible)

    def update(self, starts: Starts, new: Any) -> None:
        self.sampler.update(starts, new)


class Naive:
    """np.cumsum over all weights for every batch."""

    def __init__(self, steps: int) -> None:
        self._random = np.random.default_rng(0)
        self._weights = errors(steps).astype(np.float64) ** 0.6

    def draw(self) -> Any:
        ends = self._weights.cumsum()
        leaf = ends.searchsorted(self._random.random(COUNT) * ends[-1])
        self.importance = ends[-1] / (len(ends) * self._weights[leaf])
        return leaf

    def update(self, leaf: Any, new: Any) -> None:
        self._weights[leaf] = (new + 0.01) ** 0.6


class Cpprb:
    """cpprb's C++ buffer; one number per step, so that it hardly gathers."""

    def __init__(self, steps: int) -> None:
        import cpprb  # type: ignore[import-not-found]

        self._buffer = cpprb.PrioritizedReplayBuffer(steps, {"x": {}}, alpha=0.6)
        self._buffer.add(x=np.zeros(steps, np.float32), priorities=errors(steps))

    def draw(self) -> Any:
        return self._buffer.sample(COUNT, beta=1.0)["indexes"]

    def update(self, leaf: Any, new: Any) -> None:
        self._buffer.update_priorities(leaf, new)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--repeat", type=int, default=1000)
    parser.add_argument("--circuits", action="store_true")
    parser.add_argument("--lost", type=Path, nargs="+", metavar="RUN", help="run directories")
    a = parser.parse_args()
    if a.lost:
        lost(a.lost)
        return
    torch.set_num_threads(1)
    native.use(True)  # as a run does
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        speed(a.steps, a.repeat, directory)
        growth(a.repeat, directory)
        batch(a.steps, a.repeat)
        memory(a.steps, directory)
        saved(a.steps, directory)
        if a.circuits:
            circuits(a.steps, directory)


def errors(count: int) -> Any:
    return np.random.default_rng(count).random(count).astype(np.float32)


def microseconds(call: Callable[[], Any], into: list[float]) -> Any:
    begin = perf_counter()
    out = call()
    into.append((perf_counter() - begin) * 1e6)
    return out


def times(candidates: dict[str, Any], repeat: int) -> dict[str, tuple[float, float]]:
    """Median microseconds of a draw and of an update, by candidate; in turn, 25 at a time."""
    draws: dict[str, list[float]] = {name: [] for name in candidates}
    updates: dict[str, list[float]] = {name: [] for name in candidates}
    new = errors(COUNT)
    for _ in range(-(-repeat // 25)):
        for name, candidate in candidates.items():
            for _ in range(25):
                chosen = microseconds(candidate.draw, draws[name])
                microseconds(partial(candidate.update, chosen, new), updates[name])
    return {name: (median(draws[name]), median(updates[name])) for name in candidates}


def speed(steps: int, repeat: int, directory: Path) -> None:
    candidates: dict[str, Any] = {
        "prioritized": Ours("prioritized", steps, directory, "replay.beta=[1,1]"),
        "quantum (exact)": Ours("quantum", steps, directory),
    }
    try:
        candidates["cpprb"] = Cpprb(steps)
    except ImportError:
        print("cpprb is not installed: pip install cpprb")
    result = times(candidates, repeat)
    # By itself: every turn of it would sweep the others' caches.
    result |= times({"NumPy cumsum": Naive(steps)}, repeat // 4)
    print(f"{COUNT} sequences of {steps:,}; median µs of {repeat}")
    print(f"{'':>16} {'draw':>8} {'update':>8} {'together':>9} {'/ prioritized':>14}")
    base = sum(result["prioritized"])
    for name, (draw, update) in result.items():
        total = draw + update
        print(f"{name:>16} {draw:>8.0f} {update:>8.0f} {total:>9.0f} {total / base:>14.2f}")


def growth(repeat: int, directory: Path) -> None:
    print(f"growth with the number of steps: µs of {COUNT} draws and updates (prioritized)")
    for steps in (10**3, 10**4, 10**5, 10**6, 4 * 10**6):
        ours = {"x": Ours("prioritized", steps, directory, "replay.beta=[1,1]")}
        draw, update = times(ours, repeat // 4)["x"]
        print(f"{steps:>10,} {draw:>8.0f} {update:>8.0f}", flush=True)


def batch(steps: int, repeat: int) -> None:
    config = load_config(["replay=prioritized", f"replay.capacity={steps}"])
    replay = Replay(steps, 1, LENGTH, FIELDS, sampler_of(config, Path()))
    fill(replay, steps)
    taken: list[float] = []
    new = errors(BATCH)
    for _ in range(repeat // 4):
        sample = microseconds(partial(replay.sample, BATCH), taken)
        replay.update(sample.starts, new)
    print(f"a {BATCH}×{LENGTH} batch with its gather, of {steps:,} vector steps: {median(taken):.0f} µs")


def fill(replay: Replay, steps: int) -> None:
    """As if so many rows had been added."""
    random = np.random.default_rng(0)
    for column in replay._data.values():
        column[...] = random.integers(2, size=column.shape)
    replay._added[:] = steps


def memory(steps: int, directory: Path) -> None:
    print("bytes per step beyond the data and the stored latents:")
    for name in ("prioritized", "quantum"):
        for transform in ("power", "rank"):
            priorities = Ours(name, steps, directory, f"replay.transform={transform}").sampler.priorities
            size = sum(level.nbytes for level in priorities.tree.levels)
            size += priorities.visits.nbytes + priorities._errors.nbytes + steps  # a byte for the coverage
            print(f"{name:>12}, {transform:<6} {size / steps:.1f}")


def saved(steps: int, directory: Path) -> None:
    config = load_config(["replay=prioritized", f"replay.capacity={steps}"])

    def make() -> Replay:
        return Replay(steps, 1, LENGTH, FIELDS, sampler_of(config, directory))

    replay = make()
    fill(replay, steps)
    replay.sample(1)
    begin = perf_counter()
    checkpoint.save(directory, {}, {"replay": replay.state_dict()})
    middle = perf_counter()
    make().load_state_dict(checkpoint.load(directory)["replay"])
    end = perf_counter()
    megabytes = (directory / checkpoint.NAME).stat().st_size / 1e6
    print(f"checkpoint of {steps:,} vector steps without latents, {megabytes:.0f} MB:")
    print(f"saved in {middle - begin:.2f} s, loaded in {end - middle:.2f} s")


def circuits(steps: int, directory: Path) -> None:
    print("n, backend: seconds to prepare the circuit, of a job of 4,096 shots, µs of a draw of 16")
    for n, backends in ((5, CIRCUITS), (8, CIRCUITS[:2])):
        for name, overrides in backends:
            config = load_config([f"quantum={name}", *overrides])
            backend = make_backend(config.quantum)
            begin = perf_counter()
            warm_up(backend, n)
            prepared = perf_counter() - begin
            task = AmplitudeTask(torch.rand(1, 2**n))
            jobs: list[float] = []
            for _ in range(5):
                microseconds(partial(run, backend, [task], 4096, 0), jobs)
            settings = (f"quantum={name}", f"replay.qubits={n}", "replay.wait=true", *overrides)
            ours = Ours("quantum", steps, directory, *settings)
            draws: list[float] = []
            for _ in range(100):
                microseconds(ours.sample, draws)
            print(
                f"{n:>3} {name:>10} {prepared:>7.2f} {median(jobs) / 1e6:>7.3f} {median(draws):>7.0f}",
                flush=True,
            )


def lost(runs: list[Path]) -> None:
    """Seconds that training spent on handing jobs over and taking them in, of all seconds learned; and
    those that the backend worked meanwhile, in threads of its own."""
    for directory in runs:
        lines = read_metrics(directory, "time/quantum")
        seconds = sum(line["time/quantum"] for line in lines)
        whole = lines[-1]["time/seconds"]
        jobs, used = lines[-1]["quantum/jobs_finished"], lines[-1]["quantum/jobs_fallback"]
        print(f"{directory}: {seconds:.2f} of {whole:.0f} s, {seconds / whole:.2%}", end="; ")
        print(f"{jobs:.0f} jobs by the backend, {used:.0f} by the simulator", end="; ")
        age, fresh, distance = (
            float(np.mean([line[f"pool/{name}"] for line in lines if f"pool/{name}" in line]))
            for name in ("age", "fresh", "distance")
        )
        print(f"backend {lines[-1]['time/quantum_seconds']:.1f} s; mean age {age:.0f} batches", end=", ")
        print(f"drawn in process {fresh:.1%}, distance {distance:.3f}")


if __name__ == "__main__":
    main()

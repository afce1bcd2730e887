"""Measurements of the tree's top by circuits: a pool of shots that many batches draw from.

The top n levels below the node that covers what is filled are loaded as amplitudes √(block/total) of
2^n blocks (quantum.circuits.grover_rudolph) and measured some thousands of times in one job. A draw takes one
of these shots and descends classically below its block. Rows that came since lie in blocks that were
not loaded; they are drawn in this process, with the share s of the weight that they have by now. The
probability of a draw is therefore known exactly,

    q(leaf) = (1 − s) · (shots that hit its block / shots) · (weight of the leaf / weight of its block)
    q(leaf) = weight of the leaf / total, if its block was not loaded

whatever noise the device added and however old the shots are: nothing has to be modelled.
"""

import math
from dataclasses import asdict
from time import perf_counter
from typing import Any

import numpy as np
import torch

from qdreamer.agents.replay.sum_tree import Floats, Ints, SumTree, TreeDistribution
from qdreamer.quantum.circuits.backend import Usage
from qdreamer.quantum.circuits.grover_rudolph import AmplitudeTask
from qdreamer.quantum.circuits.sampling import bits_to_index
from qdreamer.quantum.jobs.job_queue import Counts, JobQueue, JobResult

_STREAM = 9  # of the jobs' seeds, see agents.randomness


class ShotPool(TreeDistribution):
    """Draws from the last job's shots; the next job is under way meanwhile.

    A new job starts when the shots have been drawn from `reuse` times each, or when the filled part
    has outgrown the blocks. Until the first one is back, and if all blocks that were measured have
    lost their weight, the tree is measured in this process.

    Args:
        tree: current weights. qubits: n. shots: of a job. reuse: draws per shot.
        queue: runs the jobs; the pool is its only user. seed: of the jobs.
        wait: batches wait for every job, or for what the simulator has done instead.
    """

    def __init__(
        self,
        tree: SumTree,
        qubits: int,
        shots: int,
        reuse: float,
        queue: JobQueue,
        seed: int,
        wait: bool = False,
    ) -> None:
        super().__init__(tree)
        self._qubits, self._shots, self._reuse = qubits, shots, reuse
        self._queue, self._seed, self._wait = queue, seed, wait
        self._counts = np.zeros(2**qubits, np.int64)  # shots that hit each block; none yet: all 0
        self.level = 0  # of the tree, where the blocks are nodes
        self._front = 0  # blocks from here on were not full, and count as not loaded
        self._used = 0  # draws since these shots arrived
        self._born = 0  # batch in which their job was submitted
        self._batches = 0
        self._jobs = 0
        self._active: Ints = self._counts  # counts of blocks that have weight now
        self._ends: Ints = self._counts  # their running sums
        self._loaded = 0.0  # weight of the blocks that were loaded, now
        self._seconds = 0.0  # that batches spent here on jobs

    @property
    def ready(self) -> bool:
        """Whether there are shots to draw from."""
        return bool(self._ends[-1] > 0)

    @property
    def frequencies(self) -> Floats:
        """Share (2^n,) of the shots in each block that was loaded and has weight."""
        return self._active / max(int(self._ends[-1]), 1)

    @property
    def fresh(self) -> float:
        """Share s of the weight in rows that came after the shots."""
        return 1.0 - self._loaded / self._tree.total if self.ready else 0.0

    def target(self, level: int | None = None) -> Floats:
        """Weights (2^n,) of the blocks now."""
        nodes = self._tree.levels[self.level if level is None else level][: 2**self._qubits]
        return np.pad(nodes, (0, 2**self._qubits - len(nodes)))

    def prepare(self, filled: int) -> None:
        """Take in what has been measured, ask for more."""
        begin = perf_counter()
        self._batches += 1
        self._take(self._queue.poll())
        level = covering_level(self._tree.depth, filled, self._qubits)
        due = not self._counts.any() or self._used >= self._reuse * self._shots or level != self.level
        if due and self._queue.pending == 0 and self._tree.total > 0.0:
            self._submit(level, filled)
            self._take(self._queue.wait(math.inf) if self._wait else self._queue.poll())
        loaded = self.target()[: self._front]
        self._active = np.zeros_like(self._counts)
        self._active[: self._front] = np.where(loaded > 0.0, self._counts[: self._front], 0)
        self._ends = self._active.cumsum()
        self._loaded = min(float(loaded.sum()), self._tree.total)
        self._seconds += perf_counter() - begin

    def draw(self, count: int, random: np.random.Generator) -> Ints:
        if not self.ready:
            return super().draw(count, random)
        fresh = random.random(random.binomial(count, self.fresh))  # leaves at the end, beyond what was loaded
        new = self._tree.find(self._loaded + np.sort(fresh) * (self._tree.total - self._loaded))
        self._used += count - len(new)
        shot = np.sort(random.integers(self._ends[-1], size=count - len(new)))
        block = self._ends.searchsorted(shot, side="right")
        value = random.random(len(block)) * self._tree.levels[self.level].take(block)
        return np.concatenate([self._tree.descend(block, value, self.level), new])

    def probability(self, leaf: Ints) -> Floats:
        if not self.ready:
            return super().probability(leaf)
        block = leaf >> (self._tree.depth - self.level)
        loaded = block < self._front
        block = np.where(loaded, block, 0)
        weight = self._tree.leaves.take(leaf)
        share = weight / self._tree.levels[self.level].take(block).clip(1e-300)
        measured = (1.0 - self.fresh) / self._ends[-1] * self._active.take(block) * share
        return np.where(loaded, measured, weight / self._tree.total)

    def _submit(self, level: int, filled: int) -> None:
        task = AmplitudeTask(torch.from_numpy(self.target(level)).unsqueeze(0))
        seed = np.random.SeedSequence([_STREAM, self._seed, self._jobs]).generate_state(1)[0]
        self._jobs += 1
        # Blocks before the front are full: no new row will come into them until the ring goes round.
        size, width = self._tree.size, 2 ** (self._tree.depth - level)
        front = -(-filled // width) if filled == size else filled // width
        tag = {"level": level, "front": front, "batch": self._batches, "size": size}
        self._queue.submit([task], self._shots, int(seed) >> 1, tag)

    def _take(self, outcomes: list[JobResult]) -> None:
        """Replace the shots at hand by the last that came; those lost or of another run change nothing."""
        for outcome in outcomes:
            bits = None if outcome.measurement is None else outcome.measurement.bits[0]
            tag = outcome.tag
            if bits is None or (tag.get("size"), bits.shape[-1]) != (self._tree.size, self._qubits):
                continue
            index = bits_to_index(bits).flatten().numpy()
            self._counts = np.bincount(index, minlength=2**self._qubits)
            self.level, self._front, self._born, self._used = tag["level"], tag["front"], tag["batch"], 0

    def metrics(self) -> dict[str, float]:
        """Of the shots at hand: draws per shot, age in batches, total-variation distance between what is
        drawn from and the target; and the jobs."""
        out = {
            "pool/ready": float(self.ready),
            "pool/use": self._used / self._shots,
            "pool/age": float(self._batches - self._born),
            "pool/fresh": self.fresh,
            "time/quantum": self._seconds,
        }
        self._seconds = 0.0
        if self.ready:
            drawn = (1.0 - self.fresh) * self.frequencies[: self._front]
            target = self.target()[: self._front] / self._tree.total
            out["pool/distance"] = float(0.5 * np.abs(drawn - target).sum())
        out |= {f"quantum/{name}": count for name, count in self._counted().items()}
        for name, value in self._queue.metrics().items():
            if "seconds" in name:  # what depends on the clock is logged under time/
                out[f"time/quantum_{name}"] = value
            elif name.startswith("budget"):
                out[f"quantum/{name}"] = value
        return out

    def _counted(self) -> dict[str, float]:
        """What happened to the jobs of the whole run."""
        return {f"jobs_{name}": float(count) for name, count in asdict(self._queue.counts).items()}

    def state_dict(self) -> dict[str, Any]:
        """The shots at hand. A job under way is not kept: it is collected if the service still has it,
        else submitted again."""
        return {
            "counts": torch.from_numpy(self._counts.copy()),
            "level": self.level,
            "front": self._front,
            "used": self._used,
            "born": self._born,
            "batches": self._batches,
            "jobs": self._jobs,
            "counted": self._counted(),
            "usage": asdict(self._queue.usage),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._counts = state["counts"].numpy().copy()
        self.level, self._front = state["level"], state["front"]
        self._used, self._born = state["used"], state["born"]
        self._batches, self._jobs = state["batches"], state["jobs"]
        counts = {name.removeprefix("jobs_"): int(count) for name, count in state["counted"].items()}
        self._queue.go_on_from(Counts(**counts), Usage(**state["usage"]))


def covering_level(depth: int, filled: int, qubits: int) -> int:
    """The deepest level of a tree where at most 2^n nodes cover the filled leaves."""
    return depth - max((filled - 1).bit_length() - qubits, 0)

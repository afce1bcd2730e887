"""Pools of measured shots while jobs are out, late, lost or wrong."""

import threading
from time import perf_counter, sleep

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qdreamer.agents.replay.pool import ShotPool, covering_level
from qdreamer.agents.replay.power import Power
from qdreamer.agents.replay.priorities import Priorities
from qdreamer.agents.replay.prioritized import PrioritizedSampler
from qdreamer.agents.replay.sampler import Eligible, Starts
from qdreamer.agents.replay.sum_tree import SumTree
from qdreamer.quantum.backends.statevector import Statevector
from qdreamer.quantum.circuits.backend import BackendError, Measurement, Usage
from qdreamer.quantum.circuits.grover_rudolph import AmplitudeTask
from qdreamer.quantum.jobs.job_queue import JobQueue, Limits


class Held:
    """A backend whose jobs wait until they are let go; then they are measured exactly, or fail."""

    name, in_process, remote = "held", False, False

    def __init__(self, error=None):
        self.gate, self.error, self.submitted = threading.Event(), error, 0
        self._simulator = Statevector()

    def submit(self, tasks, shots, seed):
        self.submitted += 1
        return HeldJob(self, self._simulator.submit(tasks, shots, seed).result())


class HeldJob:
    id = ""

    def __init__(self, backend, measurement):
        self._backend, self._measurement = backend, measurement

    def result(self, timeout=None):
        assert self._backend.gate.wait(20.0)
        if self._backend.error is not None:
            raise self._backend.error
        return self._measurement

    def cancel(self):
        pass


def make(backend, size=64, qubits=3, shots=1000, reuse=1.0, floor=0.1):
    warnings = []
    queue = JobQueue(backend, Limits(30.0), warnings.append)
    priorities = Priorities(1, size, Power(1.0, 1e-9))
    pool = ShotPool(priorities.tree, qubits, shots, reuse, queue, seed=0)
    return PrioritizedSampler(priorities, pool, (1.0, 1.0), 0, floor, 0), pool, queue, warnings


def eligible(low, high):
    return Eligible(np.array([low]), np.array([high]))


def until(condition):
    """Wait for the threads, at most 20 seconds."""
    end = perf_counter() + 20.0
    while not condition() and perf_counter() < end:
        threading.Event().wait(0.002)
    assert condition()


def arrived(sampler, pool, backend, where):
    """Let all jobs go, and draw until one has come in."""
    backend.gate.set()
    until(lambda: sampler.draw(1, where) is not None and pool.ready)


def total_probability(sampler, pool):
    q = pool.probability(sampler.priorities.drawable())
    assert (q >= 0.0).all()
    return q.sum()


def test_draws_never_wait_and_the_pool_comes_in_when_it_is_there():
    backend = Held()
    sampler, pool, queue, _ = make(backend)
    begin = perf_counter()
    for _ in range(50):
        sampler.draw(16, eligible(0, 40))
    assert perf_counter() - begin < 5.0
    while not backend.submitted and perf_counter() - begin < 5.0:
        sleep(0.001)  # a thread does it
    assert backend.submitted == 1 == queue.pending
    assert not pool.ready
    assert sampler.metrics()["pool/ready"] == 0.0
    arrived(sampler, pool, backend, eligible(0, 40))
    starts, _ = sampler.draw(16, eligible(0, 40))
    assert (starts.row < 40).all()
    metrics = sampler.metrics()
    assert metrics["pool/ready"] == 1.0
    assert metrics["pool/age"] >= 50.0
    assert metrics["pool/distance"] < 0.1
    assert metrics["quantum/jobs_finished"] == 1.0
    queue.close()


def test_the_ring_goes_round_while_a_job_is_out():
    backend = Held()
    sampler, pool, queue, _ = make(backend)
    sampler.draw(16, eligible(0, 50))
    every = Starts(np.zeros(50, np.int64), np.arange(50))
    sampler.update(every, np.random.default_rng(0).random(50).astype(np.float32))
    low, high = 70, 130  # nothing is left of what the job was submitted for
    sampler.draw(16, eligible(low, high))
    arrived(sampler, pool, backend, eligible(low, high))
    assert total_probability(sampler, pool) == pytest.approx(1.0)
    rows, weights = [], []
    for _ in range(200):
        starts, w = sampler.draw(1000, eligible(low, high))
        assert ((starts.row >= low) & (starts.row < high)).all()
        rows.append(starts.row)
        weights.append(w)
    x = np.random.default_rng(1).random(60)
    values = np.concatenate(weights) * x[np.concatenate(rows) - low]
    assert abs(values.mean() - x.mean()) < 4.0 * values.std() / len(values) ** 0.5
    queue.close()


def test_rows_that_come_while_a_job_is_out_are_drawn_as_often_as_they_should_be():
    """New rows weigh most: a pool that lags must not keep the learner from them."""
    backend = Held()
    sampler, pool, queue, _ = make(backend)
    sampler.draw(16, eligible(0, 34))  # blocks of eight: four full ones, one with two rows
    every = Starts(np.zeros(34, np.int64), np.arange(34))
    sampler.update(every, np.random.default_rng(0).random(34).astype(np.float32))
    arrived(sampler, pool, backend, eligible(0, 60))
    sampler.draw(1, eligible(0, 60))
    leaf = np.arange(60)
    q, target = pool.probability(leaf), sampler.priorities.tree.leaves[:60] / sampler.priorities.tree.total
    assert pool.fresh == pytest.approx(target[32:].sum())
    assert sampler.metrics()["pool/fresh"] > 0.5
    np.testing.assert_allclose(q[32:], target[32:])
    assert q.sum() == pytest.approx(1.0)
    drawn = np.bincount(pool.draw(100_000, np.random.default_rng(0)), minlength=60)
    assert np.abs(drawn / 100_000 - q).max() < 4.0 * (q.max() / 100_000) ** 0.5
    queue.close()


def test_a_pool_used_up_or_outgrown_asks_for_the_next_job():
    backend = Held()
    sampler, pool, queue, _ = make(backend, shots=100, reuse=2.0)
    arrived(sampler, pool, backend, eligible(0, 10))
    level = pool.level
    sampler.draw(100, eligible(0, 10))
    assert backend.submitted == 1
    sampler.draw(150, eligible(0, 10))  # more than 200 draws, those of the floor left out
    assert backend.submitted == 1
    sampler.draw(1, eligible(0, 10))
    until(lambda: backend.submitted == 2)  # by the queue's own thread
    until(lambda: sampler.draw(1, eligible(0, 10)) is not None and not queue.pending)
    sampler.draw(1, eligible(0, 40))
    until(lambda: backend.submitted == 3)
    until(lambda: sampler.draw(1, eligible(0, 40)) is not None and not queue.pending)
    assert pool.level == level - 2  # 10 leaves in blocks of two, 40 in blocks of eight
    queue.close()


def test_failing_jobs_fall_back_to_the_simulator_with_one_warning():
    backend = Held(BackendError("no luck"))
    sampler, pool, queue, warnings = make(backend)
    arrived(sampler, pool, backend, eligible(0, 40))
    assert len(warnings) == 1
    assert "no luck" in warnings[0]
    assert sampler.metrics()["quantum/jobs_fallback"] >= 1.0
    queue.close()


class Uneven:
    """A backend that measures whatever it likes: the worst noise there is."""

    name, in_process, remote = "uneven", False, False

    def __init__(self, blocks, qubits):
        index = torch.tensor(blocks)
        self._bits = (index[:, None] >> torch.arange(qubits) & 1).to(torch.uint8)

    def submit(self, tasks, shots, seed):
        return self

    id = ""

    def result(self, timeout=None):
        return Measurement((self._bits.unsqueeze(0),), Usage(1, len(self._bits)), (None,))

    def cancel(self):
        pass


@given(
    st.lists(st.just(0.0) | st.floats(1e-12, 10.0), min_size=2, max_size=40).filter(any),
    st.lists(st.integers(0, 7), min_size=1, max_size=20),
    st.integers(0, 100),
)
def test_probabilities_sum_to_one_whatever_was_measured(weights, blocks, seed):
    tree = SumTree(len(weights))
    tree.set(np.arange(len(weights)), np.array(weights))
    queue = JobQueue(Uneven(blocks, 3), Limits(5.0), pytest.fail)
    pool = ShotPool(tree, 3, len(blocks), 1e9, queue, 0, wait=True)
    pool.prepare(len(weights))
    q = pool.probability(np.arange(len(weights)))
    assert q.sum() == pytest.approx(1.0)
    assert not q[tree.leaves == 0.0].any()
    drawn = pool.draw(200, np.random.default_rng(seed))
    assert (q[drawn] > 0.0).all()


def test_shots_of_another_buffer_are_not_taken():
    """A service may bring back the job of a run with another capacity in the same directory."""
    backend = Held()
    _, pool, queue, _ = make(backend)
    queue.submit([AmplitudeTask(torch.ones(1, 8))], 10, 0, {"level": 2, "front": 8, "batch": 0, "size": 63})
    backend.gate.set()
    pool.prepare(0)  # with nothing to load, the pool only takes in what has come
    until(lambda: pool.prepare(0) is None and not queue.pending)
    assert not pool.ready
    queue.close()


def test_level_covers_what_is_filled():
    tree = SumTree(1000)
    for filled in (1, 7, 8, 9, 500, 1000):
        level = covering_level(tree.depth, filled, 3)
        width = 2 ** (tree.depth - level)
        assert 8 * width >= filled
        assert level == tree.depth or 8 * (width // 2) < filled


def test_state_round_trip():
    backend = Statevector()

    def fresh(seed):
        priorities = Priorities(1, 64, Power(1.0, 1e-9))
        queue = JobQueue(backend, Limits(5.0), pytest.fail)
        pool = ShotPool(priorities.tree, 3, 50, 1.0, queue, 7, wait=True)
        return PrioritizedSampler(priorities, pool, (1.0, 1.0), 0, 0.1, seed)

    def go_on(sampler, begin, end):
        seen = []
        for high in range(begin, end):
            starts, weights = sampler.draw(8, eligible(max(0, high - 60), high))
            sampler.update(starts, (starts.row % 7 + 1).astype(np.float32))
            seen.append((*starts.row, *weights))
        return seen

    one, other = fresh(0), fresh(1)
    go_on(one, 5, 90)
    other.load_state_dict(one.state_dict())
    assert go_on(one, 90, 150) == go_on(other, 90, 150)

"""A hybrid run with all three parts is killed while both of its quantum jobs are under way at a service.

The service answers when the test says so, at the same steps in both runs; that fixes what is chance in
reality, when an answer comes. Everything else must not depend on the kill.
"""

import json
import threading
import time

import pytest
import torch

from qdreamer.agents.reporting.progress import Progress
from qdreamer.agents.runs.run_directory import write_config
from qdreamer.agents.training.training import Run
from qdreamer.quantum.backends.statevector import Statevector
from qdreamer.quantum.circuits.backend import run
from qdreamer.quantum.jobs.access import CircuitAccess

SETTINGS = (
    *("agent=hybrid_with_optimizer", "quantum=ibm", "quantum.device=FakeManilaV2", "quantum.timeout=600"),
    *("optimizer.every=3", "optimizer.num_qubits=6", "optimizer.fresh=4", "optimizer.patience=100"),
    *("replay.qubits=3", "replay.shots=64", "world_model.units=8", "world_model.width=16"),
    *("world_model.hidden=8", "world_model.core=8", "sequence.head=8", "world_model.stoch=3"),
    *("world_model.classes=4", "train.batch_size=4", "train.batch_length=8", "train.replay_ratio=8"),
    *("agent.imagination_starts=2", "train.prefill=32", "evaluation.every=200", "evaluation.episodes=2"),
    *("evaluation.horizon=5", "logging.every=30", "logging.writers=[jsonl]", "checkpoint.every=20"),
    "steps=160",
)
RELEASES, KILL = (100, 130), 75


class Job:
    def __init__(self, name, measurement):
        self.id, self.measurement, self.open = name, measurement, threading.Event()

    def result(self, timeout=None):
        assert self.open.wait(600)
        return self.measurement

    def cancel(self):
        """The service goes on regardless."""


class Service:
    """Outlives the runs that ask it, as a service does."""

    in_process, remote = False, True

    def __init__(self, name):
        self.name, self.jobs, self.collected = name, {}, []

    def submit(self, tasks, shots, seed):
        job = Job(f"{self.name}-{len(self.jobs)}", run(Statevector(), tasks, shots, seed))
        self.jobs[job.id] = job
        return job

    def collect(self, job_id):
        self.collected.append(job_id)
        return self.jobs[job_id]


def answer(services):
    """All jobs so far, and those whose threads are only on their way to a service; wait until it is heard."""
    end = time.monotonic() + 60
    while threads := [t for t in threading.enumerate() if t.name == "quantum job" and t not in STRANGERS]:
        for service in services:
            for job in list(service.jobs.values()):
                job.open.set()
        threads[0].join(0.05)
        assert time.monotonic() < end


STRANGERS = set()  # threads that other tests left behind


class Killed(BaseException):
    """As SIGKILL: nothing is saved, nothing is closed."""


class Watch(Progress):
    """Opens the services' jobs at RELEASES, waits until the run's queues have heard; dies at `kill`."""

    def __init__(self, run, services, kill=None):
        super().__init__(160, 0, 0)
        self.queues = run.circuits.queues
        self.services, self.kill = services, kill

    def show(self, step, updates, force=False):
        if step == self.kill:
            raise Killed
        if step in RELEASES and not force:
            assert all(queue.pending == 1 for queue in self.queues)
            answer(self.services)


@pytest.fixture
def services(monkeypatch):
    STRANGERS.update(threading.enumerate())
    made = {"optimizer": Service("ibm"), "replay": Service("ibm")}
    monkeypatch.setattr(CircuitAccess, "backend", lambda self, owner: made[owner])
    return list(made.values())


def lines(directory):
    """What was logged, but for the clock and for whether a job was finished or recovered."""
    read = map(json.loads, (directory / "metrics.jsonl").read_text().splitlines())
    skip = ("jobs_finished", "jobs_recovered")
    return [
        {k: v for k, v in line.items() if not k.startswith("time/") and not k.endswith(skip)} for line in read
    ]


def test_a_killed_run_with_pending_jobs_ends_like_an_unbroken_one(make_config, tmp_path, services):
    config = make_config(*SETTINGS)
    weights = []
    for name, kill in (("whole", None), ("broken", KILL)):
        directory = tmp_path / name
        write_config(directory, config)
        session = Run(config, directory)
        answer(services)
        for service in services:
            service.jobs.clear()
        queues = session.circuits.queues
        assert len({queue.budget for queue in queues}) == 1 < len(queues), "a run has one budget"
        if kill is not None:
            with pytest.raises(Killed):
                session.train(Watch(session, services, kill))
            assert [len(service.jobs) for service in services] == [1, 1], "one job each is under way"
            session = Run(config, directory)
            assert session.step == 60
        session.train(Watch(session, services))
        weights.append([p.detach().clone() for p in session.agent.parameters()])
        session.close()
    assert [service.collected for service in services] == [["ibm-0"], ["ibm-0"]]
    whole, broken = lines(tmp_path / "whole"), lines(tmp_path / "broken")
    assert broken == whole
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
    last = [line for line in whole if "optimizer/tried" in line]
    assert sum(line["optimizer/tried"] for line in last) == len(RELEASES)
    assert last[-1]["pool/ready"] == 1.0

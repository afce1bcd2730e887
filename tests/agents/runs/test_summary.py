"""summary.json: what a run was made with, and what it cost over all its sessions."""

import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.reporting.progress import Progress
from qdreamer.agents.runs import provenance as provenance_module
from qdreamer.agents.runs.provenance import code, commit, provenance
from qdreamer.agents.runs.run_directory import read_summary, write_config
from qdreamer.agents.runs.summary import parameters
from qdreamer.agents.training.session import run_session
from qdreamer.agents.training.training import Run, make_agent
from qdreamer.quantum.backends.statevector import Statevector
from qdreamer.quantum.circuits.backend import Usage
from qdreamer.quantum.jobs.budget import CircuitBudget, Spending
from qdreamer.quantum.jobs.job_queue import Counts, JobQueue, Limits

SMALL = [
    "world_model.units=16", "world_model.deter=16", "world_model.hidden=16", "world_model.stoch=4",
    "world_model.classes=4", "train.batch_size=4", "train.replay_ratio=32", "train.prefill=64",
    "evaluation.every=100", "evaluation.episodes=2", "evaluation.horizon=10", "checkpoint.every=50",
    "logging.every=50", "logging.writers=[jsonl]", "steps=200", "optimizer=hybrid", "optimizer.every=10",
    "optimizer.num_qubits=4", "optimizer.p_layers=1",
]  # fmt: skip


class StopAt(Progress):
    """Presses Ctrl-C at a step."""

    def __init__(self, step: int) -> None:
        super().__init__(200, 0, 0)
        self._at = step

    def show(self, step: int, updates: int, force: bool = False) -> None:
        if step == self._at and not force:
            os.kill(os.getpid(), signal.SIGINT)


def test_a_run_leaves_its_costs_and_an_interrupted_one_the_same(tmp_path: Path) -> None:
    config = load_config(SMALL)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run_session(config, whole) == 0
    write_config(broken, config)
    for stop in (110, 151):
        run = Run(config, broken)
        assert run.train(StopAt(stop)) == signal.SIGINT
        run.close()
        assert not read_summary(broken)["finished"]
    assert run_session(config, broken) == 0
    a, b = read_summary(whole), read_summary(broken)
    assert a["finished"] and a["step"] == 200
    assert [session["threads"] for session in a["sessions"]] == [1]
    assert a["updates"] == b["updates"] > 0
    for name in ("circuits", "shots"):
        assert a["quantum"][name] == b["quantum"][name] > 0
    assert a["quantum"]["simulator_seconds"] > 0.0 == a["quantum"]["qpu_seconds"]
    assert 0.0 < a["quantum"]["seconds"] < a["seconds"]
    assert [session["step"] for session in a["sessions"]] == [0]
    assert [session["step"] for session in b["sessions"]] == [0, 110, 151]
    assert b["sessions"][0]["versions"]["torch"].startswith("2.")
    assert run_session(config, broken) == 0, "nothing to do"
    assert read_summary(broken)["sessions"] == b["sessions"]


@pytest.mark.parametrize(
    ("overrides", "quantum"),
    [
        (["agent=classical"], 0),
        (["attention=softmax"], 0),
        ([], 2),  # photons of two heads
    ],
)
def test_parameters(overrides: list[str], quantum: int) -> None:
    agent = make_agent(load_config(overrides))
    found = parameters(agent)
    assert found["quantum"] == quantum
    assert found["classical"] + found["quantum"] == sum(p.numel() for p in agent.trainable())


def test_damaged_summaries_count_as_none(tmp_path: Path) -> None:
    assert read_summary(tmp_path) == {}
    for text in ('{"sessions": [{}]}', '{"sessions": [3]}', '{"step": "x"}', "[" * 100_000):
        (tmp_path / "summary.json").write_text(text)
        assert read_summary(tmp_path) == {}
    (tmp_path / "summary.json").write_text("{")
    assert read_summary(tmp_path) == {}


def test_code_follows_the_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "agents").mkdir()
    source = tmp_path / "agents" / "x.py"
    source.write_text("x = 1\n")
    monkeypatch.setattr(provenance_module, "ROOT", tmp_path)
    before = code()
    (tmp_path / "README.md").write_text("words")
    assert code() == before
    source.write_text("x = 2\n")
    assert code() != before
    assert commit() is None, "not a repository"
    assert json.dumps(provenance())


def test_seconds_go_to_simulators_or_devices() -> None:
    usage = Usage(3, 300, 1.5, 9.0)
    accounts: list[Any] = [
        SimpleNamespace(usage=usage, remote=remote, in_flight_shots=0) for remote in (False, True, False)
    ]
    assert CircuitBudget(accounts=accounts).spending() == Spending(9, 900, 3.0, 1.5)


@pytest.mark.parametrize(("budget", "shots"), [(None, 300), (1000, 0)])
def test_queues_go_on_from_a_checkpoint(budget: int | None, shots: int) -> None:
    """Where there is a budget, the journal knows what was spent of it; circuits it does not count."""
    queue: Any = JobQueue(Statevector(), Limits(1.0), print, budget=CircuitBudget(budget))
    queue.go_on_from(Counts(lost=1), Usage(3, 300, 1.5))
    assert queue.counts.lost == 1
    spending = queue.budget.spending()
    assert (spending.circuits, spending.shots) == (3, shots)

"""`optimizer=hybrid` in a run: settings, resuming, what is logged, what the search leaves alone."""

import json
import os
import signal

import numpy as np
import pytest
import torch

from qdreamer.agents.optim.quadratic_model import Levels
from qdreamer.agents.reporting.progress import Progress
from qdreamer.agents.runs.run_directory import write_config
from qdreamer.agents.training.session import run_session
from qdreamer.agents.training.training import Run
from qdreamer.configs.schema import ConfigError

SMALL = (
    *(
        "agent=classical",
        "optimizer=hybrid",
        "optimizer.every=3",
        "optimizer.num_qubits=6",
        "optimizer.fresh=4",
    ),
    *("world_model.units=8", "world_model.deter=16", "world_model.hidden=8", "world_model.stoch=3"),
    *("world_model.classes=4", "train.batch_size=4", "train.batch_length=8", "train.replay_ratio=8"),
    *("agent.imagination_starts=2", "train.prefill=32", "evaluation.every=200", "evaluation.episodes=2"),
    *("evaluation.horizon=5", "logging.every=30", "logging.writers=[jsonl]", "steps=150"),
)


class StopAt(Progress):
    """Presses Ctrl-C once a step is reached."""

    def __init__(self, step):
        super().__init__(150, 0, 0)
        self._at = step

    def show(self, step, updates, force=False):
        if step == self._at and not force:
            os.kill(os.getpid(), signal.SIGINT)


def lines(directory):
    read = map(json.loads, (directory / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if not k.startswith("time/")} for line in read]


@pytest.mark.parametrize(
    "more",
    [(), ("optimizer.solver=greedy", "optimizer.levels=[0,0.5,1,1.5]", "optimizer.reuse=true",
          "optimizer.blocks=balanced", "sequence=transformer", "replay=prioritized",
          "precision=bfloat16")],
)  # fmt: skip
def test_a_run_searches_logs_and_resumes_exactly(make_config, tmp_path, more):
    config = make_config(*SMALL, *more)
    assert run_session(config, tmp_path / "whole") == 0
    whole = lines(tmp_path / "whole")
    searched = [line for line in whole if line.get("optimizer/tried")]
    assert len(searched) >= 3
    for line in searched:
        assert 0.0 <= line["optimizer/accepted"] <= 1.0
        assert line["optimizer/decrease_taken"] >= line["optimizer/decrease_base"] - 1e-6
        assert line["optimizer/approximation_ratio"] <= 1.0 + 1e-9
        assert any(name.startswith("optimizer/multiplier/") for name in line)
    if not more:
        assert searched[-1]["optimizer/circuits"] == sum(line["optimizer/searches"] for line in searched)
    write_config(tmp_path / "broken", config)
    run = Run(config, tmp_path / "broken")
    run.train(StopAt(83))
    run.close()
    assert run_session(config, tmp_path / "broken") == 0
    assert lines(tmp_path / "broken") == whole


def test_looking_leaves_no_trace(make_config, tmp_path, monkeypatch):
    """Searches that are never accepted change nothing: the run is that of the base optimizer."""
    multipliers = Levels.multipliers
    monkeypatch.setattr(Levels, "multipliers", lambda *a: multipliers(*a) * torch.nan)
    weights = []
    for k, more in enumerate((["optimizer.every=1000000"], ["optimizer.every=2"])):
        directory = tmp_path / str(k)
        directory.mkdir()
        run = Run(make_config(*SMALL, *more), directory)
        for _ in range(40):
            run.collector.step(random=True)
        for _ in range(6):
            run.learner.update()
        weights.append([p.detach().clone() for p in run.agent.parameters()])
        draws = run.replay.sample(4)
        weights[-1].append(torch.from_numpy(np.stack([draws.starts.env, draws.starts.row])))
        weights[-1].append(torch.rand(3))  # the global stream
        run.close()
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["optimizer.levels=[0,1,3]"], "two or four"),
        (["optimizer.levels=[0,0.5,1,1.5]", "optimizer.num_qubits=7"], "multiple of 2"),
        (["optimizer.solver=exact", "optimizer.num_qubits=22"], "optimizer.solver=exact"),
        (["optimizer.p_layers=9"], "optimizer.angles=ramp"),
        (["optimizer.solver=qoa"], "did you mean qaoa"),
    ],
)
def test_settings_that_cannot_be_right_are_refused_in_one_line(make_config, settings, message):
    with pytest.raises(ConfigError, match=message) as caught:
        make_config("optimizer=hybrid", *settings)
    assert "\n" not in str(caught.value)


def test_twenty_qubits_and_three_layers_are_a_setting(make_config, tmp_path):
    settings = ["optimizer.num_qubits=20", "optimizer.p_layers=3", "optimizer.blocks=balanced"]
    run = Run(make_config(*SMALL, *settings), tmp_path)
    for _ in range(40):
        run.collector.step(random=True)
    for _ in range(3):
        run.learner.update()
    log = run.learner.optimizer.metrics()
    run.close()
    assert (log["optimizer/qubits"], log["optimizer/tried"], log["optimizer/circuits"]) == (20.0, 1.0, 1.0)


def test_a_run_whose_circuits_are_shots_of_aer(make_config, tmp_path):
    settings = ["quantum=aer", "optimizer.wait=true", "steps=80"]
    assert run_session(make_config(*SMALL, *settings), tmp_path) == 0
    last = [line for line in lines(tmp_path) if "optimizer/circuits" in line][-1]
    assert last["optimizer/circuits"] > 0
    assert last["optimizer/jobs_fallback"] == 0.0

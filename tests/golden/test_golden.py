"""What an update computes stays what it was (`tests.golden.run` says how it is computed and stored)."""

import json

import pytest

from tests.golden.run import CASES, UPDATES, file, golden

CLOSE = {"rel": 1e-9, "abs": 1e-12}


@pytest.mark.parametrize(("agent", "env"), CASES)
def test_losses_are_those_on_file(agent, env):
    expected, found = json.loads(file(agent, env).read_text()), golden(agent, env)
    assert len(found) == len(expected) == UPDATES
    for update, (now, then) in enumerate(zip(found, expected, strict=True), 1):
        assert now == pytest.approx(then, **CLOSE), f"update {update}"


@pytest.mark.parametrize("env", ["CartPole", "Pendulum"])
def test_the_hybrid_case_holds_searches_whose_results_are_taken(env):
    accepted = [update["optimizer/accepted"] for update in json.loads(file("hybrid", env).read_text())
                if "optimizer/accepted" in update]  # fmt: skip
    assert len(accepted) == 4
    assert any(accepted)


@pytest.mark.parametrize(
    ("agent", "change"),
    [
        ("classical", "agent.lambda_=0.951"),
        ("classical", "agent.entropy.discrete=3.001e-4"),
        ("classical", "world_model.loss_scales.representation=0.1001"),
        ("hybrid", "world_model.unimix=0.01001"),
        ("hybrid", "replay.alpha=0.601"),
        ("hybrid", "optimizer.levels=[0.5,1.501]"),
    ],
)
def test_a_few_updates_betray_a_small_change(agent, change):
    found = golden(agent, "CartPole", change, updates=5)
    expected = json.loads(file(agent, "CartPole").read_text())[:5]
    assert [update.keys() for update in found] == [update.keys() for update in expected]
    assert any(now != pytest.approx(then, **CLOSE) for now, then in zip(found, expected, strict=True))

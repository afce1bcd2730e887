"""QTRL's policies have the published sizes, controls no more numbers, and REINFORCE learns by them."""

import numpy as np
import pytest
import torch

from benchmarks.qtrl import TASKS, WINDOW, Policy, returns, rows, solved, train
from qdreamer.worldmodel.weights.generated import GeneratedWeights


@pytest.mark.parametrize(("name", "weights", "published"), [("cartpole", 898, 651), ("minigrid", 4835, 2487)])
def test_sizes(name: str, weights: int, published: int) -> None:
    task = TASKS[name]
    for row in rows(task):
        policy = Policy(task, row)
        count = sum(p.numel() for p in policy.parameters)
        if row.name == "quantum_train as published":
            assert policy.made is not None
            assert policy.made.count == weights
            assert count == published
        elif row.name == "all weights trained":
            assert count == weights
        elif row.generator != "frozen_circuit":  # its mapping alone
            limit = task.sizes["small" in row.name.removeprefix("small network")]
            assert 0.5 * limit < count <= limit


def test_returns_are_discounted_and_normalised() -> None:
    found = returns(np.array([1.0, 0.0, 2.0]))
    plain = np.array([1.0 + 0.99**2 * 2.0, 0.99 * 2.0, 2.0])
    np.testing.assert_allclose(found, (plain - plain.mean()) / plain.std(), rtol=1e-5)


def test_solved_is_where_a_hundred_episodes_have_the_mean() -> None:
    assert solved([0.0] * 30 + [500.0] * 120, 475.0) == 30 + WINDOW - 5
    assert solved([400.0] * 300, 475.0) is None


def test_what_makes_the_weights_learns() -> None:
    task = TASKS["cartpole"]
    row = next(row for row in rows(task) if row.name == "hashed")
    policy = Policy(task, row)
    before = [w.copy() for w in policy.weights()]
    observation = torch.ones(1, 4)
    policy.network(observation).log_softmax(-1)[0, 1].backward()
    with torch.no_grad():
        for p in policy.parameters:
            p += 0.1 * p.grad
    old = _probability(before)
    assert _probability(policy.weights()) > old


def _probability(weights: list[np.ndarray]) -> float:
    into, bias, out, last = weights
    logits = out @ np.maximum(into @ np.ones(4) + bias, 0.0) + last
    return float(1.0 / (1.0 + np.exp(logits[0] - logits[1])))


def test_weights_are_made_once_per_update(monkeypatch: pytest.MonkeyPatch) -> None:
    task = TASKS["cartpole"]
    row = next(row for row in rows(task) if row.name == "hashed")
    made, refresh = [], GeneratedWeights.refresh
    monkeypatch.setattr(GeneratedWeights, "refresh", lambda self: made.append(0) or refresh(self))
    Policy(task, row)
    before = len(made)
    train(task, row, 0.003, 1001, 3)
    assert len(made) - 2 * before == 3 + 1  # and once to play in the end


def test_reinforce_learns_cart_pole_and_is_repeatable() -> None:
    task = TASKS["cartpole"]
    row = list(rows(task))[-1]
    first = train(task, row, 0.003, 1001, 150)
    assert np.mean(first["scores"][-30:]) > 3.0 * np.mean(first["scores"][:30])
    assert train(task, row, 0.003, 1001, 5)["scores"] == first["scores"][:5]

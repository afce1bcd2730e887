"""Accepted multipliers steer the learning rates of blocks."""

import copy

import pytest
import torch
from torch import nn

from qdreamer.agents.optim.direction_search import SolverSearch
from qdreamer.agents.optim.hybrid_optimizer import HybridOptimizer
from qdreamer.agents.optim.parameter_groups import ParameterGroup
from qdreamer.agents.optim.quadratic_model import Levels
from qdreamer.agents.optim.steering import Steering, by_block
from qdreamer.agents.training.training import Run
from qdreamer.configs.schema import ConfigError
from qdreamer.quantum.qaoa.controls import Exact

HALF = Levels.of([0.5, 1.5])
CURVATURE = torch.tensor([1.0, 4.0, 0.25], dtype=torch.float64)


class Everywhere:
    """The same loss on all data."""

    def __init__(self, loss):
        self.full_batch = lambda: loss
        self.sub_batch = lambda rows: None
        self.fresh = lambda rows, seed: (loss().detach(), loss)


def problem(rates, gain):
    """½ Σ h x² with gradient descent at rates of its own for each block, and a search at every update."""
    x = [nn.Parameter(torch.ones(1, dtype=torch.float64)) for _ in CURVATURE]
    blocks = [ParameterGroup(str(k), [p]) for k, p in enumerate(x)]
    groups = by_block([{"params": [p], "lr": rate} for p, rate in zip(x, rates, strict=True)], blocks)
    steering = Steering(len(x), gain, 1000.0) if gain else None
    base = torch.optim.SGD(groups, lr=1.0)
    optimizer = HybridOptimizer(base, blocks, SolverSearch(Exact(), 1), HALF, every=1, steering=steering)
    return x, lambda: 0.5 * (CURVATURE * torch.cat(x).square()).sum(), optimizer


def descend(loss, optimizer, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step(landscape=lambda: Everywhere(loss))


@pytest.mark.parametrize("off", [0.001, 0.01, 1.9])
def test_rates_that_are_off_repair_themselves(off):
    """1/h would be the best rate of each block; from 1.9 of it on, descent swings and hardly falls."""
    rates = (off / CURVATURE).tolist()
    ends = {}
    for gain in (0.0, 0.5):
        _, loss, optimizer = problem(rates, gain)
        descend(loss, optimizer, 40)
        ends[gain] = loss().item()
        if gain:
            found = torch.tensor([g["lr"] for g in optimizer.param_groups]) * CURVATURE
            assert ((found > 0.3) & (found < 3.0)).all()  # near 1, between the levels' reach
    assert ends[0.5] < 1e-2 * ends[0.0] or ends[0.5] < 1e-12


def test_rates_follow_the_multipliers_within_their_bounds():
    groups = [{"lr": 0.1, "block": 0}, {"lr": 0.2, "block": 1}, {"lr": 0.3}]
    steering = Steering(2, gain=0.5, bound=2.0)
    steering.follow(torch.tensor([1.5, 0.5]), groups)
    assert [g["lr"] for g in groups] == pytest.approx([0.1 * 1.5**0.5, 0.2 * 0.5**0.5, 0.3])
    for _ in range(10):
        steering.follow(torch.tensor([1.5, 0.5]), groups)
    assert [g["lr"] for g in groups] == pytest.approx([0.2, 0.1, 0.3])


def test_a_rejected_search_steers_nothing():
    _, loss, optimizer = problem([0.1, 0.1, 0.1], 0.5)
    loss().backward()

    class Worse(Everywhere):
        def __init__(self):
            super().__init__(loss)
            self.fresh = lambda rows, seed: (-loss().detach(), lambda: -loss())

    optimizer.step(landscape=Worse)
    assert optimizer.steering.rates.tolist() == [1.0, 1.0, 1.0]


def test_a_block_that_waits_keeps_its_rate():
    """Its step is zero, so that a search can say nothing about it."""
    x, loss, optimizer = problem([0.1, 0.0, 0.1], 0.5)
    descend(loss, optimizer, 5)
    rates = optimizer.steering.rates.tolist()
    assert rates[1] == 1.0 and rates[0] != 1.0 and rates[2] != 1.0
    assert float(x[1]) == 1.0


def test_warm_up_steers_nothing():
    _, loss, optimizer = problem([0.1, 0.1, 0.1], 0.5)
    optimizer.steering.begin = 4
    descend(loss, optimizer, 4)
    assert optimizer.steering.rates.tolist() == [1.0, 1.0, 1.0]
    descend(loss, optimizer, 1)
    assert 1.0 not in optimizer.steering.rates.tolist()


def test_steering_resumes_exactly():
    x, loss, whole = problem([0.01, 0.01, 0.01], 0.5)
    descend(loss, whole, 5)
    y, other, resumed = problem([0.01, 0.01, 0.01], 0.5)
    with torch.no_grad():
        for p, q in zip(x, y, strict=True):
            q.copy_(p)
    resumed.load_state_dict(copy.deepcopy(whole.state_dict()))
    descend(loss, whole, 5)
    descend(other, resumed, 5)
    assert torch.equal(torch.cat(x), torch.cat(y))
    assert torch.equal(whole.steering.rates, resumed.steering.rates)


def test_an_agents_blocks_are_steered_and_shown(make_config, tmp_path):
    words = (
        *("agent=hybrid_with_optimizer", "world_model.units=8", "world_model.core=16"),
        "world_model.hidden=8",
        *("world_model.memory=8", "attention.head=4", "world_model.stoch=3", "world_model.classes=4"),
        *("train.batch_size=4", "train.batch_length=4", "agent.imagination_starts=2"),
        *(
            "logging.writers=[jsonl]",
            "optimizer.every=1",
            "optimizer.warmup=0",
            "optimizer.solver=exact",
            "optimizer.num_qubits=3",
        ),
    )
    run = Run(make_config(*words, "optimizer.steer=0.5"), tmp_path)
    for _ in range(40):
        run.collector.step(random=True)
    for _ in range(6):
        run.learner.update()
    log, optimizer = run.learner.optimizer.metrics(), run.learner.optimizer
    rates = {name: value for name, value in log.items() if name.startswith("optimizer/rate/")}
    assert len(rates) == 3 and any(rate != 1.0 for rate in rates.values())
    steered = {g["block"]: g["lr"] for g in optimizer.param_groups if "block" in g}
    base = run.config.optimizer.lr
    assert [steered[k] for k in range(3)] == pytest.approx([base * rate for rate in rates.values()])
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(run.agent.trainable())
    run.close()
    plain = Run(make_config(*words), tmp_path)
    assert len(plain.learner.optimizer.param_groups) == 1
    plain.close()


def test_levels_must_be_factors(make_config):
    with pytest.raises(ConfigError, match=r"optimizer\.steer=0\.5 multiplies learning rates"):
        make_config("optimizer=hybrid", "optimizer.steer=0.5", "optimizer.levels=[0,1]")
    with pytest.raises(ConfigError, match=r"optimizer\.steer and optimizer\.reuse would each apply"):
        make_config("optimizer=hybrid", "optimizer.steer=0.5", "optimizer.reuse=true")

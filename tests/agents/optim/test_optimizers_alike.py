"""Every optimizer is called alike by the learner, those of torch included."""

import io

import pytest
import torch

from qdreamer.agents.optim.laprop import LaProp
from qdreamer.agents.optim.optimizer import adapt
from qdreamer.agents.training.training import Run

MAKERS = [
    lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9),
    lambda p: torch.optim.AdamW(p, lr=1e-2),
    lambda p: LaProp(p, lr=1e-2),
]


def never():
    raise AssertionError("a plain optimizer does not look at the loss")


def train(optimizer, parameters, steps, **options):
    for step in steps:
        for k, p in enumerate(parameters):
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(10 * step + k))
        optimizer.step(**options)


@pytest.mark.parametrize("make", MAKERS)
def test_plain_optimizers_ignore_the_landscape_and_resume(make):
    x = [torch.ones(3, 2, requires_grad=True), torch.ones(4, requires_grad=True)]
    y, z = ([p.detach().clone().requires_grad_() for p in x] for _ in range(2))
    plain, adapted, resumed = make(x), adapt(make(y)), adapt(make(z))
    train(plain, x, range(10))
    train(adapted, y, range(5), landscape=never)
    buffer = io.BytesIO()
    torch.save({"weights": y, "optimizer": adapted.state_dict()}, buffer)
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    for p, value in zip(z, state["weights"], strict=True):
        p.data.copy_(value)
    resumed.load_state_dict(state["optimizer"])
    train(adapted, y, range(5, 10), landscape=never)
    train(resumed, z, range(5, 10), landscape=never)
    assert all(torch.equal(p, q) and torch.equal(p, r) for p, q, r in zip(x, y, z, strict=True))
    assert adapted.metrics() == {}


def test_schedulers_and_new_groups_reach_the_wrapped_optimizer():
    base = torch.optim.SGD([torch.ones(2, requires_grad=True)], lr=0.5)
    optimizer = adapt(base)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 0.1)
    optimizer.add_param_group({"params": [torch.ones(3, requires_grad=True)]})
    assert base.param_groups[0]["lr"] == pytest.approx(0.05)
    assert len(base.param_groups) == len(optimizer.param_groups) == 2


def test_an_agent_learns_with_an_optimizer_of_torch(make_config, tmp_path):
    config = make_config(
        "world_model.units=8", "world_model.deter=16", "world_model.hidden=8", "world_model.stoch=3",
        "world_model.classes=4", "train.batch_size=4", "train.batch_length=8", "agent=classical",
        "agent.imagination_starts=2",
    )  # fmt: skip
    run = Run(config, tmp_path)
    for _ in range(40):
        run.collector.step(random=True)
    parameters = run.agent.trainable()
    before = [p.detach().clone() for p in parameters]
    run.learner.optimizer = adapt(torch.optim.SGD(parameters, lr=1e-3))
    metrics = run.learner.update()
    run.close()
    assert all(torch.isfinite(value) for value in metrics.values())
    assert any(p.grad is not None and bool(p.grad.any()) for p in parameters)
    for p, q in zip(parameters, before, strict=True):
        torch.testing.assert_close(p.detach(), q if p.grad is None else q - 1e-3 * p.grad)

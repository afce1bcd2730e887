"""A whole update with the kernels in C and without them."""

import copy

import pytest
import torch
from torch.testing import assert_close

from qdreamer import native
from qdreamer.agents.training.training import Run, use_kernels
from qdreamer.native import library

SMALL = (
    "agent=classical",
    *("world_model.units=24", "world_model.deter=48", "world_model.hidden=16", "world_model.stoch=5"),
    *("train.batch_size=40", "train.batch_length=6", "agent.imagination_starts=5"),
    *("agent.imagination_horizon=3", "logging.writers=[jsonl]", "replay.online=false"),
)


@pytest.mark.parametrize("env", ["CartPole", "Pendulum"])
@pytest.mark.parametrize("posterior", ["coupled", "decoupled"])
def test_losses_and_gradients_stay_the_same(make_config, tmp_path, env, posterior):
    run = Run(make_config(*SMALL, f"env={env}", f"world_model.posterior={posterior}"), tmp_path)
    run.close()
    if not native.on():
        pytest.skip("no C compiler")
    for _ in range(100):
        run.collector.step(random=True)
    agent, learner = run.agent, run.learner
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in agent.named_parameters():
            # The outer bins stand for ±4.8e8: rounding of their probabilities would show.
            if "out" not in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    batch = learner.to_batch(learner.replay.sample(40))
    returns = copy.deepcopy(agent.return_normalizer.state_dict())

    def losses_and_gradients():
        agent.zero_grad()
        outcome = agent.loss(batch, torch.Generator().manual_seed(5))
        outcome.total.backward()
        agent.return_normalizer.load_state_dict(returns)
        return outcome.losses, {n: p.grad for n, p in agent.named_parameters() if p.grad is not None}

    fused, fused_gradients = losses_and_gradients()
    native.use(False)
    plain, plain_gradients = losses_and_gradients()
    for name, expected in plain.items():
        assert_close(fused[name], expected, rtol=1e-5, atol=1e-5)
    assert fused_gradients.keys() == plain_gradients.keys()
    for name, expected in plain_gradients.items():
        limit = 1e-5 * max(1e-3, float(expected.abs().max()))
        assert_close(fused_gradients[name], expected, rtol=1e-4, atol=limit)


def test_without_a_compiler_one_line_warns(make_config, monkeypatch, capsys):
    def fail(_):
        raise library.CompileError("no C compiler (cc, gcc, clang) is installed")

    monkeypatch.setattr("qdreamer.native.dispatch.load_library", fail)
    use_kernels(make_config())
    assert not native.on()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("warning: no C compiler")
    use_kernels(make_config("kernels=false"))
    assert capsys.readouterr().err == ""

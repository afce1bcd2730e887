"""Every parameter's gradient of one update, by the kernels in C and float32, against torch in float64.

Both are given the same batch and the same draws, so that they see the same latents and actions.
"""

import copy
from dataclasses import fields

import pytest
import torch
from torch.testing import assert_close
from torch.utils._pytree import tree_map

from qdreamer import native
from tests.golden.run import open_run

LIMIT = 1e-3  # relative error of a gradient; float32 makes 3e-5 at most
ROWS = 8  # sequences of a batch
SMALL = (
    *("train.batch_length=8", "agent.imagination_starts=5", "agent.imagination_horizon=5"),
    *("env.max_episode_steps=20", "world_model.units=24", "world_model.hidden=16", "world_model.width=40"),
)
SHALLOW = ("world_model=tiny", "world_model.deter=40", "world_model.core=40", "world_model.stoch=5")
DEEP = (  # as size 1M is: several blocks and layers, few classes
    *("world_model=1M", "world_model.deter=48", "world_model.core=48", "world_model.blocks=3"),
    "world_model.stoch=7",
)
CASES = {
    "gru": ("agent=classical", *SHALLOW),
    "gru-deep": ("agent=classical", *DEEP),
    "gru-decoupled": ("agent=classical", *SHALLOW, "world_model.posterior=decoupled"),
    "transformer": ("agent=hybrid", "sequence=transformer", *SHALLOW),
    "transformer-deep": ("agent=hybrid", "sequence=transformer", *DEEP),
    "coherent": ("agent=hybrid", *SHALLOW),
    "coherent-deep": ("agent=hybrid", *DEEP),
    "born": ("agent=hybrid", "attention=born", *SHALLOW),
    "born-deep": ("agent=hybrid", "attention=born", *DEEP),
}


@pytest.fixture(scope="module", params=[(case, env) for case in CASES for env in ("CartPole", "Pendulum")])
def gradients(request, compiled):
    """By the kernels, and exactly: gradients of the same parameters at the same draws, by name."""
    case, env = request.param
    with open_run(*CASES[case], *SMALL, f"env={env}", dtype=torch.float32, rows=120) as run:
        assert native.on()
        agent = run.agent
        _spread(agent)
        batch = run.learner.to_batch(run.replay.sample(ROWS))
        twin = copy.deepcopy(agent).double()
        twin.world_model.rssm.noise = lambda *s, **k: agent.world_model.rssm.noise(*s, **k).double()
        twin.actor.noise = lambda *s, **k: agent.actor.noise(*s, **k).double()
        fast, fast_draws = _one_pass(agent, batch)
        native.use(False)
        exact, exact_draws = _one_pass(twin, _doubled(batch))
        for drawn, expected in zip(fast_draws, exact_draws, strict=True):
            # Classes are one-hot: another one would be off by 1.
            assert_close(drawn.double(), expected, rtol=1e-3, atol=1e-3)
        return fast, exact


def _spread(agent):
    """Move biases and scales, too, away from where they begin; the last layers stay as they are."""
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in agent.named_parameters():
            if not name.endswith(("out.weight", "out.bias")):
                parameter.add_(torch.empty_like(parameter).uniform_(-0.2, 0.2, generator=random))


def _doubled(batch):
    """The batch in float64; indices stay what they are."""
    parts = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return type(batch)(**tree_map(lambda x: x.double() if x.is_floating_point() else x, parts))


def _one_pass(agent, batch):
    """Gradients by name, and all that was drawn: latents, imagined latents and actions."""
    rollouts, imagine = [], agent.imagine
    agent.imagine = lambda *arguments: rollouts.append(imagine(*arguments)) or rollouts[-1]
    outcome = agent.loss(batch, torch.Generator().manual_seed(0))
    outcome.total.backward()
    (rollout,) = rollouts
    latents = outcome.trajectory.stoch()
    imagined = rollout.features[..., -latents.shape[-1] :]
    found = {name: p.grad for name, p in agent.named_parameters() if p.grad is not None}
    return _apart(found), (latents, imagined, rollout.actions)


def _apart(found):
    """The gradients of queries, keys and values each for itself: they differ in size."""
    out = {}
    for name, gradient in found.items():
        parts = gradient.chunk(3) if ".qkv." in name else [gradient]
        out |= {name if len(parts) == 1 else f"{name}[{'qkv'[i]}]": part for i, part in enumerate(parts)}
    return out


def wrong(found, exact):
    """Names of the gradients that are further from the exact ones than `LIMIT`."""
    assert found.keys() == exact.keys()
    return [n for n, g in exact.items() if not (found[n].double() - g).norm() <= LIMIT * g.norm()]


def test_the_kernels_gradients_are_right(gradients):
    assert wrong(*gradients) == []


def test_an_error_of_one_percent_in_any_gradient_is_noticed(gradients):
    found, exact = gradients
    for name, gradient in found.items():
        assert exact[name].norm() > 0, name
        assert wrong({**found, name: 1.01 * gradient}, exact) == [name]

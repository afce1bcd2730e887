"""Actor and critic losses: values by hand, where gradients go, shapes and names."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from qdreamer.agents.actor import Actor
from qdreamer.agents.behaviour import (
    Critic,
    ReturnNormalizer,
    Rollout,
    behaviour_losses,
    imagine,
    replay_value_loss,
)
from qdreamer.agents.training.training import make_dreamer
from qdreamer.envs.actions import ActionSpec
from qdreamer.envs.entries import Vector
from qdreamer.worldmodel.model import Batch

BATCH, STEPS, STARTS, HORIZON, ACTIONS = 3, 6, 4, 5, 2
WORLD_MODEL_LOSSES = ("observation", "reward", "continue", "dynamics", "representation")


@pytest.fixture(scope="module")
def config(make_config):
    return make_config(
        *("world_model.units=8", "world_model.deter=16", "world_model.hidden=8", "world_model.stoch=3"),
        *("world_model.classes=4", "world_model.bins=21", "world_model.standardize=false"),
        *(f"train.batch_length={STEPS}", f"agent.imagination_starts={STARTS}"),
        *(f"agent.imagination_horizon={HORIZON}", "agent.slow_scale=0.5", "agent.entropy.discrete=0.01"),
    )


@pytest.fixture
def agent(config):
    """A tiny agent, all parameters random (also those that start at zero)."""
    torch.manual_seed(0)
    agent = make_dreamer(config, {"observation": Vector(4)}, ActionSpec.discrete(ACTIONS))
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return agent


@pytest.fixture
def batch(agent):
    torch.manual_seed(1)
    is_last = torch.zeros(BATCH, STEPS)
    is_last[0, 3] = is_last[1, 4] = 1.0
    is_terminal = is_last.clone()
    is_terminal[1, 4] = 0.0
    is_first = torch.cat([torch.ones(BATCH, 1), is_last[:, :-1]], 1)
    return Batch(
        observation={"observation": torch.randn(BATCH, STEPS, 4)},
        previous_action=torch.eye(ACTIONS)[torch.randint(ACTIONS, (BATCH, STEPS))],
        reward=torch.randn(BATCH, STEPS),
        is_first=is_first,
        is_last=is_last,
        is_terminal=is_terminal,
        weight=torch.ones(BATCH),
        carry=agent.world_model.rssm.initial(BATCH),
    )


def touched(module):
    """Whether any parameter has a gradient that is not zero."""
    return any(p.grad is not None and bool(p.grad.any()) for p in module.parameters())


def cross_entropy(logits, target, bins):
    """Cross-entropy to explicit two-hot vectors, in NumPy."""
    vectors = np.stack([np.interp(target, bins, unit) for unit in np.eye(len(bins))], -1)
    shifted = logits - logits.max(-1, keepdims=True)
    return -(vectors * (shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))).sum(-1)


def critic_loss(critic, features, target, slow_scale):
    """Regression to `target` and, scaled, to the slow critic's value."""
    with torch.no_grad():
        logits = critic.online.out(critic.online.body(features)).numpy()
        slow = critic.slow(features).pred().numpy()
    bins = critic.online.bins.numpy()
    return cross_entropy(logits, target, bins) + slow_scale * cross_entropy(logits, slow, bins)


def lambda_returns(reward, discount, bootstrap, last, lambda_):
    """(B, T) each, by the recursion R_t = r + d·((1 − λ)·b + λ·R), λ = 0 where the next row is last."""
    returns = [bootstrap[:, -1]]
    for t in range(reward.shape[1] - 1, 0, -1):
        keep = lambda_ * (1 - last[:, t])
        returns.append(reward[:, t] + discount[:, t] * ((1 - keep) * bootstrap[:, t] + keep * returns[-1]))
    return np.stack(returns[:0:-1], 1)


# The joint loss


def test_names_shapes_and_total(agent, batch):
    outcome = agent.loss(batch, torch.Generator().manual_seed(2))
    shapes = {name: tuple(loss.shape) for name, loss in outcome.losses.items()}
    world_model = dict.fromkeys(WORLD_MODEL_LOSSES, (BATCH, STEPS))
    behaviour = {"policy": (BATCH, STARTS), "value": (BATCH, STARTS), "replay_value": (BATCH, STARTS - 1)}
    assert shapes == world_model | behaviour
    assert set(agent.loss_scales) == set(shapes)
    total = sum(agent.loss_scales[name] * loss.mean().item() for name, loss in outcome.losses.items())
    assert outcome.total.item() == pytest.approx(total, rel=1e-5)
    assert all(value.shape == () for value in outcome.metrics.values())


@pytest.mark.parametrize("section", ["world_model", "agent"])
def test_wrong_loss_scales_are_refused(config, section):
    part = getattr(config, section)
    one = next(iter(part.loss_scales))
    missing = {name: scale for name, scale in part.loss_scales.items() if name != one}
    for scales, wrong in ((part.loss_scales | {"polcy": 1.0}, "polcy"), (missing, one)):
        with pytest.raises(ValueError, match=f"check {wrong}"):
            replace(config, **{section: replace(part, loss_scales=scales)})


def test_where_gradients_go(agent, batch):
    model, critic = agent.world_model, agent.critic
    modules = {
        "model": [model.rssm, model.encoder],
        "heads": [model.decoder, model.reward, model.continues],
        "actor": [agent.actor],
        "critic": [critic.online],
        "slow": [critic.slow],
    }
    expected = {"policy": {"actor"}, "value": {"critic"}, "replay_value": {"model", "critic"}}
    for name, reached in expected.items():
        agent.zero_grad(set_to_none=True)
        loss = agent.loss(batch, torch.Generator().manual_seed(2)).losses[name].sum()
        assert loss.requires_grad, name  # fails if "value" reuses what was computed without gradient
        loss.backward()
        touched_now = {key for key, parts in modules.items() if any(touched(part) for part in parts)}
        assert touched_now == reached, name


def test_world_model_losses_do_not_reach_the_behaviour(agent, batch):
    losses = agent.loss(batch, torch.Generator().manual_seed(2)).losses
    sum(losses[name].sum() for name in WORLD_MODEL_LOSSES).backward()
    assert touched(agent.world_model.encoder)
    assert not touched(agent.actor)
    assert not touched(agent.critic)


# Imagination


def test_rollouts_start_at_the_last_steps_of_every_sequence(agent, batch):
    noise = agent.world_model.rssm.noise(*batch.reward.shape, generator=torch.Generator().manual_seed(2))
    _, trajectory = agent.world_model.loss(batch, noise)
    rollout = agent.imagine(trajectory, STEPS - STARTS, torch.Generator().manual_seed(3))
    assert rollout.features.shape == (HORIZON + 1, BATCH * STARTS, agent.world_model.features)
    assert rollout.actions.shape == (HORIZON, BATCH * STARTS, ACTIONS)
    assert not rollout.features.requires_grad
    # The policy that chose is the actor's own, with its gradients.
    expected = agent.actor(rollout.features[:-1])
    torch.testing.assert_close(rollout.policy.probs, expected.probs)
    wanted, got = (
        torch.autograd.grad(policy.log_prob(rollout.actions).mean(), list(agent.actor.parameters()))
        for policy in (expected, rollout.policy)
    )
    for x, y in zip(wanted, got, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-7)
    starts = rollout.features[0].view(BATCH, STARTS, -1)
    assert torch.equal(starts, trajectory.features[:, -STARTS:])
    assert torch.equal(rollout.actions.sum(-1), torch.ones(HORIZON, BATCH * STARTS))


def test_imagination_has_no_gradient_and_is_reproducible(agent):
    torch.manual_seed(2)
    rssm = agent.world_model.rssm
    features = torch.randn(7, rssm.features, requires_grad=True)

    def roll(seed):
        generator = torch.Generator().manual_seed(seed)
        return imagine(agent.world_model, agent.actor, features, rssm.initial(7), HORIZON, generator)

    rollout = roll(0)
    assert not rollout.features.requires_grad
    assert not rollout.actions.requires_grad
    again = roll(0)
    assert torch.equal(rollout.features, again.features)
    assert torch.equal(rollout.actions, again.actions)
    assert not torch.equal(rollout.features, roll(1).features)


@pytest.mark.parametrize("discrete", [True, False])
def test_rollouts_follow_their_actions(config, discrete):
    """Each step is the world model's under the action of the rollout, looked up or not."""
    torch.manual_seed(0)
    spec = ActionSpec.discrete(3) if discrete else ActionSpec.continuous(3)
    agent = make_dreamer(config, {"observation": Vector(4)}, spec)
    rssm = agent.world_model.rssm
    seed = torch.Generator().manual_seed(5)
    features, initial = torch.randn(7, rssm.features), rssm.initial(7)
    rollout = imagine(agent.world_model, agent.actor, features, initial, HORIZON, seed)
    assert not discrete or rollout.actions.sum((0, 1)).gt(0).all()  # every row of the table is used
    noise, carry = rssm.noise(HORIZON, 7, generator=torch.Generator().manual_seed(5)), rssm.initial(7)
    with torch.no_grad():
        for t in range(HORIZON):
            features, carry = rssm.imagine(rollout.actions[t], carry, noise[t])
            torch.testing.assert_close(features, rollout.features[t + 1])


# Values of the losses


def rollout(actor, features, actions):
    """Rollouts of (N, H+1, F) features and (N, H, A) actions, as the actor's."""
    features = features.transpose(0, 1)
    return Rollout(features, actions.transpose(0, 1), actor(features[:-1]))


class Stub:
    """A world model that reads reward and continuation from the features."""

    def reward(self, features):
        return SimpleNamespace(pred=lambda: features[..., 0])

    def continues(self, features):
        return SimpleNamespace(pred=lambda: features[..., 1])


@pytest.fixture
def parts(config):
    """ActingLoop, critic and scale on four features."""
    torch.manual_seed(0)
    settings = replace(config.agent, units=8, actor_layers=1, critic_layers=1)
    actor = Actor(ActionSpec.discrete(ACTIONS), 4, settings)
    critic = Critic(4, 21, settings)
    return actor, critic, ReturnNormalizer(1.0, settings.return_limit, settings.return_percentiles)


def test_behaviour_losses_against_numpy(config, parts):
    actor, critic, scale = (part.double() for part in parts)
    for network in (actor, critic):
        for parameter in network.parameters():
            parameter.data.add_(0.3 * torch.randn_like(parameter))
    features = torch.randn(7, HORIZON + 1, 4, dtype=torch.float64)
    features[..., 1] = torch.rand(7, HORIZON + 1)
    features[..., 0] *= 30.0
    actions = torch.eye(ACTIONS)[torch.randint(ACTIONS, (7, HORIZON))].double()
    result = behaviour_losses(rollout(actor, features, actions), Stub(), critic, scale, config.agent)

    reward, discount = features[..., 0].numpy(), features[..., 1].numpy()
    with torch.no_grad():
        value, policy = critic(features).pred().numpy(), actor(features[:, :-1]).probs.numpy()
    returns = lambda_returns(reward, discount, value, np.zeros_like(reward), config.agent.lambda_)
    spread = np.percentile(returns, 95) - np.percentile(returns, 5)
    assert spread > config.agent.return_limit
    advantage = (returns - value[:, :-1]) / spread
    weight = np.cumprod(discount, 1)[:, :-1]
    log_prob = np.log((policy * actions.numpy()).sum(-1))
    entropy = -(policy * np.log(policy)).sum(-1)
    policy_loss = -weight * (log_prob * advantage + config.agent.entropy["discrete"] * entropy)
    value_loss = weight * critic_loss(critic, features[:, :-1], returns, config.agent.slow_scale)
    losses = {name: loss.detach().numpy().T for name, loss in result.losses.items()}
    np.testing.assert_allclose(result.returns.numpy().T, returns, rtol=1e-9)
    np.testing.assert_allclose(losses["policy"], policy_loss, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(losses["value"], value_loss, rtol=1e-9)


def test_entropy_weighs_by_kind_of_action(config, parts):
    critic, scale = parts[1], parts[2]
    features, weight = torch.rand(7, HORIZON + 1, 4), {"discrete": 1.0, "continuous": 100.0}
    actors = {
        "discrete": (parts[0], torch.eye(ACTIONS)[torch.zeros(7, HORIZON, dtype=torch.long)]),
        "continuous": (Actor(ActionSpec.continuous(1), 4, config.agent), torch.rand(7, HORIZON, 1)),
    }
    for kind, (actor, actions) in actors.items():
        state = copy.deepcopy(scale.state_dict())
        losses = []
        for entropy in (weight, dict.fromkeys(weight, 0.0)):
            scale.load_state_dict(state)
            settings = replace(config.agent, entropy=entropy)
            arguments = (rollout(actor, features, actions), Stub(), critic, scale, settings)
            losses.append(behaviour_losses(*arguments).losses["policy"])
        reached = torch.cumprod(features[..., 1], 1)[:, :-1].T  # the probability of each step
        expected = -reached * weight[kind] * actor(features[:, :-1]).entropy()[kind].T
        torch.testing.assert_close(losses[0] - losses[1], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_policy_gradient_prefers_the_rewarded_action(config, parts, sign):
    """One step of imagination: action 0 is rewarded with `sign`, action 1 with nothing."""
    actor, critic, scale = parts
    settings = replace(config.agent, entropy={"discrete": 0.0, "continuous": 0.0})
    torch.manual_seed(1)
    start = torch.tensor([0.0, 1.0, 0.3, -0.2])  # no reward, goes on
    actions = torch.eye(ACTIONS)[torch.arange(256) % ACTIONS].unsqueeze(1)  # (N, 1, A)
    ends = torch.zeros(256, 1, 4)  # the episode ends here
    ends[:, 0, 0] = sign * actions[:, 0, 0]
    imagined = rollout(actor, torch.cat([start.expand(256, 1, 4), ends], 1), actions)
    optimizer = torch.optim.SGD(actor.parameters(), 0.1)
    before = actor(start).probs[0].item()
    behaviour_losses(imagined, Stub(), critic, scale, settings).losses["policy"].mean().backward()
    optimizer.step()
    assert sign * (actor(start).probs[0].item() - before) > 0.0


def test_critic_learns_the_returns(config, parts):
    """Following the gradient of the value loss brings the critic to a constant return."""
    actor, critic, scale = parts
    features = torch.randn(32, 3, 4, generator=torch.Generator().manual_seed(1))
    features[..., 0], features[..., 1] = 5.0, 0.0  # a reward of 5, then the end
    features[:, 0, 1] = 1.0
    actions = torch.eye(ACTIONS)[torch.zeros(32, 2, dtype=torch.long)]
    settings = replace(config.agent, slow_scale=0.0)
    optimizer = torch.optim.Adam(critic.online.parameters(), 0.02)
    for _ in range(200):
        optimizer.zero_grad()
        losses = behaviour_losses(rollout(actor, features, actions), Stub(), critic, scale, settings).losses
        losses["value"].sum().backward()
        optimizer.step()
    np.testing.assert_allclose(critic(features[:, 0]).pred().detach().numpy(), 5.0, rtol=0.05)


# Replayed values


def test_replay_value_loss_against_numpy(config, agent, batch):
    torch.manual_seed(4)
    critic = agent.critic.double()
    features = torch.randn(BATCH, STARTS, agent.world_model.features, dtype=torch.float64, requires_grad=True)
    bootstrap = 10.0 * torch.randn(BATCH, STARTS, dtype=torch.float64)
    batch = replace(batch, reward=batch.reward.double())
    horizon = config.world_model.horizon
    loss = replay_value_loss(features, batch, bootstrap, critic, horizon, config.agent)

    reward, last, terminal = (
        x[:, -STARTS:].double().numpy() for x in (batch.reward, batch.is_last, batch.is_terminal)
    )
    discount = (1 - terminal) * (1 - 1 / horizon)
    returns = lambda_returns(reward, discount, bootstrap.numpy(), last, config.agent.lambda_)
    inner = features.detach()[:, :-1]
    expected = (1 - last[:, :-1]) * critic_loss(critic, inner, returns, config.agent.slow_scale)
    # Discounts are computed in single precision.
    np.testing.assert_allclose(loss.detach().numpy(), expected, rtol=1e-6)
    assert (expected == 0.0).sum() == 2  # the two episodes' final rows teach nothing
    loss.sum().backward()
    taught = torch.cat([batch.is_last[:, -STARTS:-1] == 0.0, torch.zeros(BATCH, 1, dtype=torch.bool)], 1)
    assert torch.equal(features.grad.any(-1), taught)


def test_slow_critic_is_a_moving_average(agent):
    critic = agent.critic
    before = [p.clone() for p in critic.slow.parameters()]
    critic.update_slow()
    rate = agent.config.slow_rate
    for was, now, online in zip(before, critic.slow.parameters(), critic.online.parameters(), strict=True):
        assert not now.requires_grad
        torch.testing.assert_close(now, (1 - rate) * was + rate * online.detach())
        assert not torch.equal(now, was)


def test_importance_weights_scale_what_was_drawn(agent, batch):
    """Doubling every weight doubles world-model and replay losses and leaves imagination alone."""
    means = []
    state = copy.deepcopy(agent.state_dict())
    for factor in (1.0, 2.0):
        agent.load_state_dict(state)  # the return scale moves with every batch
        weighted = replace(batch, weight=torch.full((BATCH,), factor))
        outcome = agent.loss(weighted, torch.Generator().manual_seed(0))
        means.append({name: float(outcome.metrics[f"loss/{name}"]) for name in outcome.losses})
    for name, mean in means[0].items():
        expected = mean if name in ("policy", "value") else 2.0 * mean
        assert means[1][name] == pytest.approx(expected, rel=1e-3), name


def test_averages_follow_their_networks(agent):
    rate = agent.config.average_rate
    before = [p.clone() for p in agent.average_actor.parameters()]
    with torch.no_grad():
        for p in agent.actor.parameters():
            p.add_(1.0)
    agent.update_averages()
    for old, new, online in zip(
        before, agent.average_actor.parameters(), agent.actor.parameters(), strict=True
    ):
        torch.testing.assert_close(new, (1.0 - rate) * old + rate * online)
        assert not new.requires_grad

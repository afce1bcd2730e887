"""Policies against NumPy float64 and torch.distributions."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.distributions import Normal

from qdreamer.agents.actor import Actor, BoundedNormal, CategoricalPolicy
from qdreamer.envs.actions import ActionSpec, Classes, Numbers

LOGITS = torch.log(torch.tensor([1.0, 2.0, 4.0, 3.0], dtype=torch.float64))
PROBS = 0.99 * np.array([0.1, 0.2, 0.4, 0.3]) + 0.01 / 4


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# Categorical


def test_categorical_log_prob_entropy_and_mode():
    policy = CategoricalPolicy(LOGITS, 0.01)
    one_hot = torch.eye(4, dtype=torch.float64)
    batch = CategoricalPolicy(LOGITS.expand(4, 4), 0.01)
    np.testing.assert_allclose(batch.log_prob(one_hot).numpy(), np.log(PROBS), rtol=1e-13)
    assert policy.entropy()["discrete"].item() == pytest.approx(-(PROBS * np.log(PROBS)).sum(), rel=1e-13)
    assert torch.equal(policy.mode(), one_hot[2])
    assert batch.entropy()["discrete"].shape == batch.log_prob(one_hot).shape == (4,)


def test_categorical_never_rules_an_action_out():
    policy = CategoricalPolicy(torch.tensor([0.0, 1e4]), 0.01)
    assert policy.log_prob(torch.tensor([1.0, 0.0])).item() == pytest.approx(math.log(0.005), rel=1e-6)
    assert CategoricalPolicy(torch.tensor([0.0, 1e4]), 0.0).entropy()["discrete"].item() == 0.0


def uniform(shape):
    return torch.rand(shape, dtype=torch.float64, generator=generator())


def test_categorical_gradients():
    """Of ln((1 − u)·softmax + u/A), by hand: (1 − u)·p_a·(δ_ab − p_b)/π_a."""
    logits = LOGITS.clone().requires_grad_()
    policy = CategoricalPolicy(logits, 0.01)
    action = torch.tensor([0.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    (grad,) = torch.autograd.grad(policy.log_prob(action), logits)
    p = np.array([0.1, 0.2, 0.4, 0.3])
    expected = 0.99 * p[1] * (action.numpy() - p) / PROBS[1]
    np.testing.assert_allclose(grad.numpy(), expected, rtol=1e-12)
    assert not CategoricalPolicy(logits, 0.01).sample(uniform((1,))).requires_grad


def test_categorical_sample_frequencies(chi_square_p):
    draws = 200_000
    samples = CategoricalPolicy(LOGITS.expand(draws, 4), 0.01).sample(uniform((draws, 1)))
    assert torch.equal(samples.sum(-1), torch.ones(draws, dtype=torch.float64))
    assert torch.equal(samples * samples, samples)
    assert chi_square_p(samples.sum(0), PROBS) > 1e-4
    # The same test notices when the mixture is 4 % instead of 1 %.
    other = CategoricalPolicy(LOGITS.expand(draws, 4), 0.04).sample(uniform((draws, 1)))
    assert chi_square_p(other.sum(0), PROBS) < 1e-4


# Bounded normal


def bounded_normal(shape=(5, 3), seed=0):
    """A policy, and its mean and deviation in NumPy."""
    mean, raw = 2 * torch.randn(2, *shape, dtype=torch.float64, generator=generator(seed))
    std = 0.1 + 0.9 / (1 + np.exp(-(raw.numpy() + 2)))
    return BoundedNormal(mean, raw, 0.1, 1.0), np.tanh(mean.numpy()), std


def test_bounded_normal_log_prob_and_entropy():
    policy, mean, std = bounded_normal()
    action = torch.randn(5, 3, dtype=torch.float64, generator=generator(1))
    normal = Normal(torch.from_numpy(mean), torch.from_numpy(std))
    torch.testing.assert_close(policy.log_prob(action), normal.log_prob(action).sum(-1), rtol=1e-12, atol=0)
    torch.testing.assert_close(policy.entropy()["continuous"], normal.entropy().sum(-1), rtol=1e-12, atol=0)
    np.testing.assert_allclose(policy.mode().numpy(), mean, rtol=1e-13)


def test_bounded_normal_deviation_stays_within_its_bounds():
    raw = torch.tensor([-1e3, -2.0, 1e3], dtype=torch.float64)
    policy = BoundedNormal(torch.zeros(3, dtype=torch.float64), raw, 0.2, 0.8)
    # Entropies of the three deviations 0.2, ½(0.2 + 0.8) and 0.8 add up.
    expected = sum(0.5 * math.log(2 * math.pi * math.e * s * s) for s in (0.2, 0.5, 0.8))
    assert policy.entropy()["continuous"].item() == pytest.approx(expected, rel=1e-12)


def test_bounded_normal_samples(chi_square_p):
    draws, bins = 100_000, 20
    policy = BoundedNormal(torch.full((draws, 1), 0.4), torch.full((draws, 1), -2.5), 0.1, 1.0)
    samples = policy.sample(torch.randn(draws, 1, generator=generator()))
    assert not samples.requires_grad
    mean, std = math.tanh(0.4), 0.1 + 0.9 / (1 + math.exp(0.5))

    def p_value(std):
        quantile = Normal(mean, std).cdf(samples[:, 0])  # uniform if mean and std are right
        return chi_square_p(torch.histc(quantile, bins, 0.0, 1.0), np.full(bins, 1 / bins))

    assert p_value(std) > 1e-4
    assert p_value(1.05 * std) < 1e-4


# Networks


@pytest.fixture
def config(make_config):
    return replace(make_config().agent, units=8, actor_layers=2, unimix=0.01, min_std=0.1, max_std=1.0)


def test_an_actor_fits_the_action_space(config):
    features = torch.randn(5, 7, generator=generator())
    for spec, kind in (
        (ActionSpec.discrete(3), CategoricalPolicy),
        (ActionSpec.continuous(3), BoundedNormal),
    ):
        actor = Actor(spec, 7, config)
        policy = actor(features)
        assert isinstance(policy, kind)
        assert policy.sample(actor.noise(5, generator=generator())).shape == (5, 3)
        (entropy,) = policy.entropy().values()
        assert policy.log_prob(policy.mode()).shape == entropy.shape == (5,)
    # Discrete policies start near uniform: outputs are scaled by 0.01.
    torch.manual_seed(0)
    actor = Actor(ActionSpec.discrete(3), 7, replace(config, units=64, unimix=0.0))
    entropy = actor(features).entropy()["discrete"]
    torch.testing.assert_close(entropy, torch.full((5,), math.log(3.0)), rtol=0, atol=1e-3)


def test_noise_is_reproducible_and_gives_the_actions(config):
    features = torch.randn(50, 7, generator=generator())
    for spec in (ActionSpec.discrete(3), ActionSpec.continuous(3)):
        actor = Actor(spec, 7, config)
        noise, other = (actor.noise(50, generator=generator(seed)) for seed in (3, 4))
        assert torch.equal(noise, actor.noise(50, generator=generator(3)))
        policy = actor(features)
        assert torch.equal(policy.sample(noise), policy.sample(noise.clone()))
        assert not torch.equal(policy.sample(noise), policy.sample(other))


# Several leaves, and masks

LEAVES = ActionSpec((Classes(4), Numbers(3), Classes(2, 3)))


def test_leaves_are_independent_and_add_up(config):
    """The joint log-probability and entropy are the sums of each leaf's own, on its own numbers."""
    actor = Actor(LEAVES, 7, config)
    torch.nn.init.normal_(actor.body.out.weight, generator=generator())
    policy, output = actor(features := torch.randn(50, 7, generator=generator())), actor.body
    action = policy.sample(actor.noise(50, generator=generator()))
    assert action.shape == (50, LEAVES.size) and not action.requires_grad
    choice, mean, raw, bits = output(features).split([4, 3, 3, 6], -1)
    alone = [CategoricalPolicy(choice, 0.01), BoundedNormal(mean, raw, 0.1, 1.0)]
    alone += [CategoricalPolicy(part, 0.01) for part in bits.split(2, -1)]
    own = action.split([4, 3, 2, 2, 2], -1)
    expected = sum(part.log_prob(x) for part, x in zip(alone, own, strict=True))
    torch.testing.assert_close(policy.log_prob(action), expected)
    entropy = policy.entropy()
    torch.testing.assert_close(entropy["continuous"], alone[1].entropy()["continuous"])
    discrete = sum(part.entropy()["discrete"] for part in alone if isinstance(part, CategoricalPolicy))
    torch.testing.assert_close(entropy["discrete"], discrete)
    torch.testing.assert_close(policy.mode(), torch.cat([part.mode() for part in alone], -1))
    assert all((x.sum(-1) == 1.0).all() for x in own[:1] + own[2:])


def test_each_leaf_is_drawn_by_its_own_probabilities(config, chi_square_p):
    draws = 100_000
    actor = Actor(LEAVES, 7, config)
    torch.nn.init.normal_(actor.body.out.weight, generator=generator())
    features = torch.randn(1, 7, generator=generator())
    with torch.no_grad():
        output = actor.body(features)
        samples = actor.policy(output.expand(draws, -1)).sample(actor.noise(draws, generator=generator()))
    for begin, end, at in ((0, 4, 0), (7, 9, 10), (11, 13, 14)):
        logits = output[0, at : at + end - begin]
        probs = 0.99 * torch.softmax(logits, -1) + 0.01 / (end - begin)
        assert chi_square_p(samples[:, begin:end].sum(0), probs.numpy()) > 1e-4
    pairs = samples[:, 8] * 2 + samples[:, 10]  # two bits, which know nothing of each other
    counts = torch.bincount(pairs.long(), minlength=4) / draws
    product = (counts[2] + counts[3]) * (counts[1] + counts[3])
    assert counts[3].item() == pytest.approx(product.item(), abs=5e-3)


def test_forbidden_actions_have_no_probability_and_finite_gradients(config):
    spec = ActionSpec((Classes(3), Classes(2, 2)))
    actor = Actor(spec, 7, config, masked=True)
    torch.nn.init.normal_(actor.body.out.weight, generator=generator())
    draws = 100_000
    features = torch.randn(1, 7, generator=generator()).expand(draws, -1)
    mask = torch.tensor([[1, 0, 1, 0, 1, 0, 0]], dtype=torch.uint8).expand(draws, -1)
    policy = actor(features, mask)  # the last choice's mask forbids all, and so nothing
    noise = actor.noise(draws, generator=generator())
    noise[:10] = 1.0 - 2**-24  # the largest number that may be drawn
    samples = policy.sample(noise)
    assert not samples[:, [1, 3]].any() and samples[:, [0, 2, 5, 6]].any(0).all()
    assert not policy.mode()[:, [1, 3]].any()
    torch.testing.assert_close(samples.sum(-1), torch.full((draws,), 3.0))
    entropy, log_prob = policy.entropy()["discrete"], policy.log_prob(samples)
    p = (0.99 * torch.softmax(actor.body(features[:1])[0, [0, 2]], -1) + 0.005).detach()
    last = (0.99 * torch.softmax(actor.body(features[:1])[0, 5:], -1) + 0.005).detach()
    expected = -(p * p.log()).sum() - (last * last.log()).sum()
    torch.testing.assert_close(entropy[0].detach(), expected)
    (entropy + log_prob).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in actor.parameters())


def test_without_a_mask_all_actions_of_a_masked_actor_are_allowed(config):
    features = torch.randn(9, 7, generator=generator())
    masked = Actor(ActionSpec.discrete(5), 7, config, masked=True)
    plain = Actor(ActionSpec.discrete(5), 7, config)
    plain.load_state_dict(masked.state_dict())
    everything = torch.ones(9, 5)
    for policy in (masked(features), masked(features, everything)):
        torch.testing.assert_close(policy.probs, plain(features).probs)
        torch.testing.assert_close(policy.entropy(), plain(features).entropy())

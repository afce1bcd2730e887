"""Policies against NumPy float64 and torch.distributions."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.distributions import Normal

from qdreamer.agents.actor import Actor, BoundedNormal, CategoricalPolicy
from qdreamer.envs.spaces import ActionSpec

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
    assert policy.entropy().item() == pytest.approx(-(PROBS * np.log(PROBS)).sum(), rel=1e-13)
    assert torch.equal(policy.mode(), one_hot[2])
    assert batch.entropy().shape == batch.log_prob(one_hot).shape == (4,)


def test_categorical_never_rules_an_action_out():
    policy = CategoricalPolicy(torch.tensor([0.0, 1e4]), 0.01)
    assert policy.log_prob(torch.tensor([1.0, 0.0])).item() == pytest.approx(math.log(0.005), rel=1e-6)
    assert CategoricalPolicy(torch.tensor([0.0, 1e4]), 0.0).entropy().item() == 0.0


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
    assert not CategoricalPolicy(logits, 0.01).sample(uniform(())).requires_grad


def test_categorical_sample_frequencies(chi_square_p):
    draws = 200_000
    samples = CategoricalPolicy(LOGITS.expand(draws, 4), 0.01).sample(uniform((draws,)))
    assert torch.equal(samples.sum(-1), torch.ones(draws, dtype=torch.float64))
    assert torch.equal(samples * samples, samples)
    assert chi_square_p(samples.sum(0), PROBS) > 1e-4
    # The same test notices when the mixture is 4 % instead of 1 %.
    other = CategoricalPolicy(LOGITS.expand(draws, 4), 0.04).sample(uniform((draws,)))
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
    torch.testing.assert_close(policy.entropy(), normal.entropy().sum(-1), rtol=1e-12, atol=0)
    np.testing.assert_allclose(policy.mode().numpy(), mean, rtol=1e-13)


def test_bounded_normal_deviation_stays_within_its_bounds():
    raw = torch.tensor([-1e3, -2.0, 1e3], dtype=torch.float64)
    policy = BoundedNormal(torch.zeros(3, dtype=torch.float64), raw, 0.2, 0.8)
    # Entropies of the three deviations 0.2, ½(0.2 + 0.8) and 0.8 add up.
    expected = sum(0.5 * math.log(2 * math.pi * math.e * s * s) for s in (0.2, 0.5, 0.8))
    assert policy.entropy().item() == pytest.approx(expected, rel=1e-12)


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
    for discrete, kind in ((True, CategoricalPolicy), (False, BoundedNormal)):
        actor = Actor(ActionSpec(3, discrete), 7, config)
        policy = actor(features)
        assert isinstance(policy, kind)
        assert policy.sample(actor.noise(5, generator=generator())).shape == (5, 3)
        assert policy.log_prob(policy.mode()).shape == policy.entropy().shape == (5,)
    # Discrete policies start near uniform: outputs are scaled by 0.01.
    torch.manual_seed(0)
    actor = Actor(ActionSpec(3, True), 7, replace(config, units=64, unimix=0.0))
    torch.testing.assert_close(actor(features).entropy(), torch.full((5,), math.log(3.0)), rtol=0, atol=1e-3)


def test_noise_is_reproducible_and_gives_the_actions(config):
    features = torch.randn(50, 7, generator=generator())
    for discrete in (True, False):
        actor = Actor(ActionSpec(3, discrete), 7, config)
        noise, other = (actor.noise(50, generator=generator(seed)) for seed in (3, 4))
        assert torch.equal(noise, actor.noise(50, generator=generator(3)))
        policy = actor(features)
        assert torch.equal(policy.sample(noise), policy.sample(noise.clone()))
        assert not torch.equal(policy.sample(noise), policy.sample(other))

"""Categorical latents: unimix, draws, straight-through gradient, KL and entropy, KL balancing."""

import math

import numpy as np
import pytest
import torch

from qdreamer.envs.entries import Vector
from qdreamer.worldmodel.model import WorldModel, kl_losses
from qdreamer.worldmodel.networks.categorical import (
    entropy,
    kl_divergence,
    sample_index,
    sample_straight_through,
    unimix_probs,
)

LEVEL = 1e-4
DRAWS = 200_000
PROBS = torch.tensor([[0.002, 0.298, 0.1, 0.35, 0.25], [0.9, 0.025, 0.025, 0.025, 0.025]])


def random_probs(seed, *shape):
    return torch.from_numpy(np.random.default_rng(seed).dirichlet(np.ones(shape[-1]), shape[:-1]))


def gradient(loss, x):
    """d loss/d x; zeros where they are not connected."""
    (grad,) = torch.autograd.grad(loss, x, retain_graph=True, allow_unused=True)
    return torch.zeros_like(x) if grad is None else grad


@pytest.fixture(scope="module")
def draw_noise(make_config):
    """Noise for `count` draws of S = 2 variables with K = 5 classes, as the world model makes it."""
    config = make_config("world_model.stoch=2", "world_model.classes=5")
    parts = config.world_model, config.sequence, config.attention
    rssm = WorldModel(*parts, {"observation": Vector(3)}, 2).rssm

    def draw(count, seed):
        return rssm.noise(count, generator=torch.Generator().manual_seed(seed))

    return draw


# Unimix


def test_unimix():
    logits = torch.log(torch.tensor([[1.0, 3.0]], dtype=torch.float64))
    expected = torch.tensor([[0.2525, 0.7475]], dtype=torch.float64)  # 0.99·(¼, ¾) + 0.01/2
    torch.testing.assert_close(unimix_probs(logits, 0.01), expected, rtol=1e-14, atol=0)
    torch.testing.assert_close(unimix_probs(logits, 0.0), expected * 0 + torch.tensor([0.25, 0.75]))
    extreme = unimix_probs(torch.tensor([0.0, 1e4, 0.0, 0.0]), 0.01)
    torch.testing.assert_close(extreme, torch.tensor([0.0025, 0.9925, 0.0025, 0.0025]))


@pytest.mark.parametrize("classes", [2, 4, 15, 16, 40])
def test_unimix_of_few_and_many_classes(classes):
    logits = 3.0 * torch.randn(3, 5, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    logits.requires_grad_()
    weight = torch.randn(logits.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    probs = unimix_probs(logits, 0.01)
    expected = 0.99 * torch.softmax(logits, -1) + 0.01 / classes
    torch.testing.assert_close(probs, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        gradient((probs * weight).sum(), logits), gradient((expected * weight).sum(), logits)
    )


# Draws


@pytest.mark.parametrize("variable", [0, 1])
def test_draws_follow_the_probabilities(draw_noise, chi_square_p, variable):
    probs = PROBS.expand(DRAWS, 2, 5)
    noise = draw_noise(DRAWS, seed=0)
    one_hot = sample_straight_through(probs, noise)
    assert chi_square_p(one_hot[:, variable].sum(0), PROBS[variable]) > LEVEL
    # The same test tells probabilities apart that are mixed with 1 % uniform.
    mixed = sample_straight_through(probs * 0.99 + 0.01 / 5, noise)
    assert chi_square_p(mixed[:, variable].sum(0), PROBS[variable]) < LEVEL


def test_variables_are_drawn_independently(draw_noise, chi_square_p):
    index = sample_index(PROBS.expand(DRAWS, 2, 5), draw_noise(DRAWS, seed=1))
    pairs = torch.bincount(index[:, 0] * 5 + index[:, 1], minlength=25)
    assert chi_square_p(pairs, torch.outer(PROBS[0], PROBS[1]).flatten()) > LEVEL


def test_draws_are_one_hot_and_agree(draw_noise):
    probs = PROBS.expand(1000, 2, 5)
    noise = draw_noise(1000, seed=2)
    one_hot = sample_straight_through(probs, noise)
    assert torch.equal(one_hot, torch.nn.functional.one_hot(sample_index(probs, noise), 5).float())


def test_draws_invert_the_distribution_function():
    probs = torch.tensor([0.0, 0.5, 0.25, 0.25])
    uniform = torch.tensor([0.0, 0.25, 0.5, 0.6, 0.75, 1.0 - 2**-24])  # in [0, 1)
    assert sample_index(probs.expand(6, 4), uniform).tolist() == [1, 1, 2, 2, 3, 3]
    # Where the last running sum falls short of 1, the class exists all the same.
    short = torch.full((256,), (1.0 - 2**-20) / 256)
    assert sample_index(short, torch.tensor(1.0 - 2**-24)).item() == 255


def test_impossible_classes_are_never_drawn(draw_noise):
    probs = torch.tensor([[0.0, 0.5, 0.0, 0.5, 0.0], [0.0, 0.0, 0.0, 0.0, 1.0]])
    index = sample_index(probs.expand(10_000, 2, 5), draw_noise(10_000, seed=3))
    assert set(index[:, 0].tolist()) == {1, 3}
    assert set(index[:, 1].tolist()) == {4}


def test_straight_through_gradient_is_that_of_the_probabilities(draw_noise):
    logits = torch.randn(3, 2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    weight = torch.randn(3, 2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    logits.requires_grad_()
    probs = unimix_probs(logits, 0.01)
    sample = sample_straight_through(probs, draw_noise(3, seed=6).double())
    loss = (sample * weight).sum()
    assert torch.equal(gradient(loss, probs), weight)
    # By hand: d Σ w·((1 − u)·p + u/K)/d logit = (1 − u)·p·(w − Σ w·p).
    p = torch.softmax(logits.detach(), -1)
    expected = 0.99 * p * (weight - (weight * p).sum(-1, keepdim=True))
    torch.testing.assert_close(gradient(loss, logits), expected, rtol=1e-12, atol=1e-14)


# KL and entropy


def test_kl_and_entropy_golden():
    p = torch.tensor([[0.5, 0.5]], dtype=torch.float64)  # S = 1
    q = torch.tensor([[0.25, 0.75]], dtype=torch.float64)
    assert kl_divergence(p, q).item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3), rel=1e-13)
    assert kl_divergence(q, p).item() == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5), rel=1e-13)
    assert kl_divergence(q, q).item() == 0.0
    assert entropy(torch.full((3, 4), 0.25)).item() == pytest.approx(3 * math.log(4), rel=1e-6)
    assert entropy(torch.eye(4)).item() == 0.0


def test_kl_and_entropy_against_numpy():
    p, q = random_probs(0, 2, 3, 4, 6), random_probs(1, 2, 3, 4, 6)
    p_, q_ = p.numpy(), q.numpy()
    np.testing.assert_allclose(kl_divergence(p, q), (p_ * np.log(p_ / q_)).sum((2, 3)), rtol=1e-12)
    np.testing.assert_allclose(entropy(p), -(p_ * np.log(p_)).sum((2, 3)), rtol=1e-12)


# KL balancing


def test_kl_loss_values_and_gradients():
    posterior, prior = random_probs(2, 2, 3, 4, 6), random_probs(3, 2, 3, 4, 6)
    divergence = (posterior.numpy() * np.log(posterior.numpy() / prior.numpy())).sum((2, 3))
    assert (divergence > 1.0).all()
    posterior.requires_grad_(), prior.requires_grad_()
    losses = kl_losses(posterior, prior, 1.0)
    assert set(losses) == {"dynamics", "representation"}
    for loss in losses.values():
        np.testing.assert_allclose(loss.detach().numpy(), divergence, rtol=1e-12)
    dynamics, representation = losses["dynamics"].sum(), losses["representation"].sum()
    assert not gradient(dynamics, posterior).any()
    assert not gradient(representation, prior).any()
    torch.testing.assert_close(gradient(dynamics, prior), -(posterior / prior).detach())
    torch.testing.assert_close(gradient(representation, posterior), (posterior / prior).log().detach() + 1)


def test_free_nats_cover_the_sum_over_variables():
    # KL((½, ½) ‖ (q, 1 − q)) = −½ ln(4q(1 − q)); choose q for 0.4 nats per variable.
    q = 0.5 * (1 + math.sqrt(1 - math.exp(-0.8)))
    prior = torch.tensor([[q, 1 - q]], dtype=torch.float64)
    posterior = torch.full_like(prior, 0.5)
    for variables, expected in ((2, 1.0), (3, 1.2)):
        leaves = [x.expand(1, 1, variables, 2).clone().requires_grad_() for x in (posterior, prior)]
        losses = kl_losses(*leaves, 1.0)
        for name, leaf in (("representation", leaves[0]), ("dynamics", leaves[1])):
            assert losses[name].item() == pytest.approx(expected, rel=1e-12)
            moves = gradient(losses[name].sum(), leaf).any().item()
            assert moves == (variables == 3)

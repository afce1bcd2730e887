"""Measured attention: estimators of softmax attention, their bias, error and gradient."""

import pytest
import torch
from torch.testing import assert_close

from benchmarks.head_errors import expected_error
from qdreamer.worldmodel.attention.draws import (
    STRATEGIES,
    Budget,
    effective_keys,
    entropy,
    predicted_error,
    relative_error,
)
from qdreamer.worldmodel.attention.kernel import causal
from qdreamer.worldmodel.attention.sampled import Sampled
from qdreamer.worldmodel.attention.softmax import Softmax

UNBIASED = ["importance", "stratified", "systematic", "adaptive", "topk_rest"]
INDEPENDENT = ["importance", "adaptive"]


def drawing(seed=0):
    return torch.Generator().manual_seed(seed)


def repeated(p, strategy, budget, times, seed=0):
    """Estimates (times, …, N, M) of the same weights (…, N, M)."""
    return STRATEGIES[strategy](p.expand(times, *p.shape).contiguous(), budget, drawing(seed))


def weights_of(logits):
    return torch.softmax(logits, -1)


@pytest.mark.parametrize("strategy", UNBIASED)
def test_estimates_are_unbiased(strategy):
    """Each weight's mean over 20,000 estimates lies within 5 standard errors of p."""
    p = weights_of(torch.randn(3, 24, generator=drawing(1), dtype=torch.float64))  # none is rare
    estimates = repeated(p, strategy, Budget(8, 3, 0.7), 20_000).weights
    error = (estimates.mean(0) - p).abs()
    standard = estimates.std(0) / 20_000**0.5
    assert (error <= 5.0 * standard + 1e-12).all()
    assert_close(estimates.sum(-1), torch.ones(20_000, 3, dtype=torch.float64))
    if strategy != "topk_rest":  # its fixed part has no variance
        assert (standard > 0).all()


@pytest.mark.parametrize("strategy", UNBIASED)
def test_gradients_are_unbiased(strategy):
    """The mean gradient of ⟨g, ô⟩ with respect to logits and values equals that of ⟨g, o⟩."""
    times = 20_000
    logits = 1.5 * torch.randn(2, 12, generator=drawing(1), dtype=torch.float64)
    v = torch.randn(12, 3, generator=drawing(2), dtype=torch.float64)
    upstream = torch.randn(2, 3, generator=drawing(3), dtype=torch.float64)
    exact = [x.clone().requires_grad_() for x in (logits, v)]
    expected = torch.autograd.grad((weights_of(exact[0]) @ exact[1] * upstream).sum(), exact)
    leaves = [x.expand(times, *x.shape).clone().requires_grad_() for x in (logits, v)]
    estimate = STRATEGIES[strategy](weights_of(leaves[0]), Budget(6, 2, 0.7), drawing())
    gradients = torch.autograd.grad((estimate.weights @ leaves[1] * upstream).sum(), leaves)
    for gradient, true in zip(gradients, expected, strict=True):
        standard = gradient.std(0) / times**0.5
        assert ((gradient.mean(0) - true).abs() <= 5.0 * standard + 1e-12).all()
        assert true.abs().max() > 10.0 * standard.max()  # the bound above says something


@pytest.mark.parametrize("strategy", INDEPENDENT)
@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_error_of_independent_draws_is_the_expected_one(strategy, scale):
    """√((Σp|v|² − |o|²)/(S|o|²)) within 10 %, for each query."""
    generator = drawing(4)
    p = weights_of(scale * torch.randn(4, 64, generator=generator, dtype=torch.float64))
    v = torch.randn(64, 5, generator=generator, dtype=torch.float64) + 0.5
    estimates = repeated(p, strategy, Budget(32, 1, 1.5), 4_000)
    errors = relative_error(estimates.weights @ v, p @ v)  # (4000, 4)
    measured = errors.square().mean(0).sqrt()
    expected = expected_error(p, v, estimates.draws[0].double())
    assert ((measured / expected - 1.0).abs() < 0.1).all()


def test_error_predicted_from_the_weights_alone():
    """√((N_eff − 1)/S) for values that are independent and centred."""
    generator = drawing(5)
    p = weights_of(torch.randn(64, 64, generator=generator, dtype=torch.float64))
    v = torch.randn(64, 64, 32, generator=generator, dtype=torch.float64)  # other values for every query
    p = p.unsqueeze(1)  # (64, 1, 64)
    estimates = repeated(p, "importance", Budget(32, 1), 100)
    squares = (estimates.weights @ v - p @ v).square().sum((-2, -1)).mean(0)
    measured = (squares / (p @ v).square().sum((-2, -1))).sqrt()
    predicted = predicted_error(p, estimates.draws[0].double()).squeeze(-1)
    assert 0.9 < (measured / predicted).mean() < 1.1


def test_better_strategies_have_less_error():
    generator = drawing(6)
    p = weights_of(2.0 * torch.randn(8, 128, generator=generator, dtype=torch.float64))
    v = torch.randn(128, 8, generator=generator, dtype=torch.float64)
    errors = {
        name: relative_error(repeated(p, name, Budget(32, 24), 500).weights @ v, p @ v).square().mean().sqrt()
        for name in ("importance", "stratified", "systematic", "topk_rest")
    }
    assert errors["stratified"] < errors["importance"]
    assert errors["systematic"] < errors["importance"]
    assert errors["topk_rest"] < errors["importance"]


def test_top_and_mean_of_the_rest_is_deterministic():
    p = weights_of(torch.randn(3, 20, generator=drawing(7), dtype=torch.float64))
    p[0, 15:] = 0.0
    p = p / p.sum(-1, keepdim=True)
    first, second = (STRATEGIES["control"](p, Budget(6, 1), drawing(seed)) for seed in (0, 1))
    assert torch.equal(first.weights, second.weights)
    order = p.argsort(-1, descending=True)
    for row, weights, keys in zip(p, first.weights, order, strict=True):
        expected = row.clone()
        rest = keys[6:][row[keys[6:]] > 0]
        expected[rest] = row[rest].mean()
        assert_close(weights, expected)
    assert (first.draws == 6).all()
    assert_close(STRATEGIES["control"](p, Budget(20, 1), None).weights, p)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_estimate_depends_on_its_own_keys_only(strategy):
    """At most S keys are looked at; values of others do not matter (`control`: but for their sum)."""
    p = weights_of(2.0 * torch.randn(4, 64, generator=drawing(1), dtype=torch.float64))
    v = torch.randn(64, 3, generator=drawing(2), dtype=torch.float64)
    weights = STRATEGIES[strategy](p, Budget(8, 3, 0.7), drawing()).weights
    for row in weights:
        usual = row.min() if strategy == "control" else 0.0
        others = row == usual
        assert others.sum() >= 64 - 8
        changed = v.clone()
        if strategy == "control":
            changed[others] = changed[others].flip(0)
        else:
            changed[others] = 1e6 * changed[others]
        assert_close(row @ changed, row @ v)


def test_gradient_of_top_and_mean_of_the_rest():
    logits = torch.randn(2, 9, generator=drawing(8), dtype=torch.float64, requires_grad=True)
    control = STRATEGIES["control"]
    assert torch.autograd.gradcheck(lambda x: control(weights_of(x), Budget(3, 1), None).weights, logits)


def test_adaptive_draws_more_where_attention_is_spread():
    p = torch.zeros(3, 64, dtype=torch.float64)
    p[0, 5] = 1.0
    p[1, :4] = 0.25
    p[2] = 1.0 / 64
    draws = STRATEGIES["adaptive"](p, Budget(100, 1, 0.5), drawing()).draws
    assert draws.tolist() == [1, 12, 100]  # (e^H − 1)/0.25 = 0, 12, 252


def test_keys_without_probability_are_never_drawn():
    logits = torch.randn(200, 30, 30, generator=drawing(9), dtype=torch.float32)
    mask = causal(30) & (torch.arange(30) % 3 == 0)
    mask[7] = False
    p = torch.softmax(logits.masked_fill(~mask, -1e9), -1) * mask
    for strategy in STRATEGIES.values():
        weights = strategy(p, Budget(16, 8), drawing()).weights
        assert not weights.masked_select(~mask).any()
        assert weights.isfinite().all()


def test_spread():
    p = torch.tensor([[1.0, 0, 0, 0], [0.25, 0.25, 0.25, 0.25], [0, 0, 0, 0]])
    assert_close(effective_keys(p), torch.tensor([1.0, 4.0, 0.0]))
    assert_close(entropy(p), torch.tensor([0.0, 4.0, 0.0]).log().nan_to_num(neginf=0.0))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_attend_draws_from_the_generator(heads_of, strategy):
    q, k, v = heads_of(0, 40)
    kind = Sampled(2, 6, strategy, 8, 4)
    first, again, other = (kind.attend(q, k, v, generator=drawing(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (strategy == "control")
    exact = Softmax(2, 6).attend(q, k, v)
    assert not torch.allclose(first, exact)
    assert_close(kind.weights(q, k) @ v, exact)
    numbers = kind.head_numbers(q, k, v, None)
    assert (numbers["draws"] <= 8).all()
    assert all(((numbers[name] > 0.0) & (numbers[name] < 2.0)).all() for name in ("error", "predicted_error"))

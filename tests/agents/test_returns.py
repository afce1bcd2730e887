"""λ-returns and their scale against NumPy float64."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qdreamer.agents.behaviour import ReturnNormalizer, lambda_return


def recursive(reward, discount, bootstrap, last, lambda_):
    """The recursion, one number at a time, for one sequence of T steps."""

    def value(t):
        if t == len(reward) - 1:
            return bootstrap[t]
        keep = 0.0 if last[t + 1] else lambda_
        return reward[t + 1] + discount[t + 1] * ((1 - keep) * bootstrap[t + 1] + keep * value(t + 1))

    return np.array([value(t) for t in range(len(reward) - 1)])


def mixture(reward, discount, bootstrap, last, lambda_):
    """(1 − λ) Σ λⁿ⁻¹ G⁽ⁿ⁾, the longest n-step return G⁽ⁿ⁾ taking the remaining weight."""

    def n_step(t, n):
        live = np.concatenate([[1.0], np.cumprod(discount[t + 1 : t + n + 1])])
        return (live[:-1] * reward[t + 1 : t + n + 1]).sum() + live[-1] * bootstrap[t + n]

    out = []
    for t in range(len(reward) - 1):
        ends = np.flatnonzero(last[t + 1 :])
        longest = ends[0] + 1 if len(ends) else len(reward) - 1 - t
        total = sum((1 - lambda_) * lambda_ ** (n - 1) * n_step(t, n) for n in range(1, longest))
        out.append(total + lambda_ ** (longest - 1) * n_step(t, longest))
    return np.array(out)


def random_sequences(seed, batch=4, steps=8):
    random = np.random.default_rng(seed)
    reward, bootstrap = random.normal(size=(2, batch, steps))
    last = random.random((batch, steps)) < 0.2
    terminal = last & (random.random((batch, steps)) < 0.5)
    discount = (1.0 - terminal) * random.uniform(0.5, 1.0, (batch, steps))
    return reward, discount, bootstrap, last.astype(np.float64)


def ours(reward, discount, bootstrap, last, lambda_):
    tensors = [None if x is None else torch.as_tensor(x) for x in (reward, discount, bootstrap, last)]
    return lambda_return(*tensors, lambda_).numpy()


@pytest.mark.parametrize(
    ("discount_2", "last_2", "expected"),
    [
        (0.9, 0.0, [16.525, 24.5, 30.0]),  # goes on: R₁ = 2 + 0.9·(10 + 15)
        (0.9, 1.0, [14.5, 20.0, 30.0]),  # time-out at step 2: R₁ = 2 + 0.9·20
        (0.0, 1.0, [6.4, 2.0, 30.0]),  # terminal at step 2: R₁ = 2
    ],
)
def test_by_hand(discount_2, last_2, expected):
    """λ = ½, R₃ = b₃ = 30, R₂ = 3 + 0.9·(15 + 15) = 30, R₀ = 1 + 0.9·(5 + R₁/2)."""
    returns = ours(
        np.array([[99.0, 1.0, 2.0, 3.0]]),
        np.array([[99.0, 0.9, discount_2, 0.9]]),
        np.array([[99.0, 10.0, 20.0, 30.0]]),
        np.array([[1.0, 0.0, last_2, 0.0]]),
        0.5,
    )
    np.testing.assert_allclose(returns, [expected], rtol=1e-14)


@given(st.integers(0, 2**31), st.floats(0, 1))
def test_against_slow_definitions(seed, lambda_):
    arrays = random_sequences(seed)
    returns = ours(*arrays, lambda_)
    assert returns.shape == (4, 7)
    for row, result in zip(zip(*arrays, strict=True), returns, strict=True):
        np.testing.assert_allclose(result, recursive(*row, lambda_), rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(result, mixture(*row, lambda_), rtol=1e-11, atol=1e-12)


def test_no_last_means_none_is_last():
    reward, discount, bootstrap, last = random_sequences(0)
    np.testing.assert_array_equal(
        ours(reward, discount, bootstrap, None, 0.95), ours(reward, discount, bootstrap, 0 * last, 0.95)
    )


def test_limits():
    reward, discount, bootstrap, last = random_sequences(1)
    one_step = reward[:, 1:] + discount[:, 1:] * bootstrap[:, 1:]
    np.testing.assert_allclose(ours(reward, discount, bootstrap, last, 0.0), one_step, rtol=1e-14)
    # λ = 1: the discounted sum of all rewards, plus the value of the last step.
    total = bootstrap[:, -1]
    for t in range(7, 0, -1):
        total = reward[:, t] + discount[:, t] * total
    monte_carlo = ours(reward, discount, bootstrap, None, 1.0)
    np.testing.assert_allclose(monte_carlo[:, 0], total, rtol=1e-12)
    # Only the last value counts then; the first step's reward and value never do.
    bootstrap[:, :-1] += 100.0
    reward[:, 0] += 100.0
    np.testing.assert_allclose(ours(reward, discount, bootstrap, None, 1.0), monte_carlo, rtol=1e-12)


# Scale


def test_scale_follows_the_percentiles():
    scale = ReturnNormalizer(0.25, 1.0, (5.0, 95.0)).double()
    random = np.random.default_rng(0)
    low = high = 0.0
    for size in (10.0, 20.0, 5.0):
        returns = size * random.normal(size=(7, 11))
        low = 0.75 * low + 0.25 * np.percentile(returns, 5)
        high = 0.75 * high + 0.25 * np.percentile(returns, 95)
        assert scale.update(torch.from_numpy(returns)).item() == pytest.approx(high - low, rel=1e-12)
    assert high - low > 1.0


def test_scale_by_hand():
    scale = ReturnNormalizer(1.0, 1.0, (0.0, 75.0))
    assert scale.update(torch.tensor([[4.0, 0.0], [8.0, 2.0]])).item() == 5.0  # 75th percentile of 0 2 4 8


def test_scale_never_falls_below_the_limit():
    scale = ReturnNormalizer(1.0, 1.5, (5.0, 95.0))
    assert scale.update(torch.linspace(0.0, 0.1, 50)).item() == 1.5
    assert scale.update(torch.full((50,), 7.0)).item() == 1.5
    assert scale.update(torch.linspace(-100.0, 100.0, 201)).item() == pytest.approx(180.0, rel=1e-6)


def test_scale_is_part_of_the_state_and_has_no_gradient():
    scale = ReturnNormalizer(0.5, 1.0, (5.0, 95.0))
    spread = scale.update(torch.randn(100).requires_grad_() * 10.0)
    assert not spread.requires_grad
    other = ReturnNormalizer(0.5, 1.0, (5.0, 95.0))
    other.load_state_dict(scale.state_dict())
    returns = torch.randn(100)
    assert torch.equal(scale.update(returns), other.update(returns))

"""Output distributions against NumPy float64."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qdreamer.native.two_hot import two_hot_position
from qdreamer.worldmodel.networks.heads import Bernoulli, TwoHot, symexp_bins
from qdreamer.worldmodel.networks.vector import MeanSquare

BINS = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0], dtype=torch.float64)


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def two_hot(target, bins):
    """Explicit vectors (…, K): the unit vectors, interpolated linearly between the bins."""
    return np.stack([np.interp(target, bins, unit) for unit in np.eye(len(bins))], -1)


def of_logits(logits, bins):
    """The distribution whose last layer is the identity."""
    return TwoHot(logits, bins, torch.eye(len(bins)).to(bins), torch.zeros(len(bins)).to(bins))


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


# Two-hot


@pytest.mark.parametrize(
    ("target", "weights"),
    [
        (0.25, [0, 0, 0.75, 0.25, 0]),
        (1.5, [0, 0, 0, 0.75, 0.25]),
        (-2.5, [0.75, 0.25, 0, 0, 0]),
        (1.0, [0, 0, 0, 1, 0]),
        (0.0, [0, 0, 1, 0, 0]),
        (-3.0, [1, 0, 0, 0, 0]),
        (3.0, [0, 0, 0, 0, 1]),
        (50.0, [0, 0, 0, 0, 1]),
        (-50.0, [1, 0, 0, 0, 0]),
    ],
)
def test_two_hot_golden_weights(target, weights):
    # The gradient of a cross-entropy is softmax − target vector, which reveals the vector.
    logits = double([0.3, -1.0, 0.8, 0.0, 2.0]).requires_grad_()
    (grad,) = torch.autograd.grad(of_logits(logits, BINS).loss(double(target)), logits)
    torch.testing.assert_close(torch.softmax(logits, -1).detach() - grad, double(weights), rtol=0, atol=1e-14)
    np.testing.assert_allclose(two_hot(target, BINS.numpy()), weights, atol=1e-14)


def test_two_hot_golden_loss_and_prediction():
    probs = double([0.1, 0.2, 0.3, 0.25, 0.15])
    output = of_logits(torch.log(probs) + 7.0, BINS)
    assert output.loss(double(0.25)).item() == pytest.approx(
        -(0.75 * math.log(0.3) + 0.25 * math.log(0.25)), rel=1e-13
    )
    assert output.loss(double(1e9)).item() == pytest.approx(-math.log(0.15), rel=1e-13)
    assert output.pred().item() == pytest.approx(-0.3 - 0.2 + 0.25 + 0.45, rel=1e-13)


@given(st.floats(-4.8e8, 4.8e8))
def test_expectation_of_two_hot_target_is_the_target(target):
    bins = symexp_bins(255).double()
    below, above = two_hot_position(double([target]), bins)
    low, high, weight = bins[below].item(), bins[below + 1].item(), above.item()
    assert low <= target <= high
    assert 0.0 <= weight <= 1.0
    assert (1.0 - weight) * low + weight * high == pytest.approx(target, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_two_hot_loss_is_the_cross_entropy(dtype, rtol):
    random = np.random.default_rng(0)
    bins = symexp_bins(255)
    logits = random.normal(size=(4, 50, 255)) * 3
    target = np.sinh(random.uniform(-22, 22, size=(4, 50)))  # also beyond the end bins
    assert (np.abs(target) > bins[-1].item()).any()
    expected = -(two_hot(target, bins.double().numpy()) * log_softmax(logits)).sum(-1)
    output = of_logits(torch.from_numpy(logits).to(dtype), bins.to(dtype))
    loss = output.loss(torch.from_numpy(target).to(dtype))
    np.testing.assert_allclose(loss.numpy(), expected, rtol=rtol)


def test_two_hot_loss_to_several_targets():
    torch.manual_seed(0)
    bins = symexp_bins(41, -5.0, 5.0).double()
    logits = torch.randn(3, 4, 41, dtype=torch.float64, requires_grad=True)
    one, two, weight = (5.0 * torch.randn(3, 4, dtype=torch.float64) for _ in range(3))
    two[0, 0] = one[0, 0]  # the same two bins
    output = of_logits(logits, bins)
    both = output.loss(one, two, scales=(1.0, 0.3))
    separate = output.loss(one) + 0.3 * output.loss(two)
    torch.testing.assert_close(both, separate)
    vectors = [torch.from_numpy(two_hot(target.numpy(), bins.numpy())) for target in (one, two)]
    plain = -((vectors[0] + 0.3 * vectors[1]) * torch.log_softmax(logits, -1)).sum(-1)
    gradients = [
        torch.autograd.grad((loss * weight).sum(), logits, retain_graph=True)[0]
        for loss in (both, separate, plain)
    ]
    torch.testing.assert_close(both, plain)
    torch.testing.assert_close(gradients[0], gradients[2])
    torch.testing.assert_close(gradients[1], gradients[2])


@pytest.mark.parametrize("rows", [6, 2500])  # less, and more, than what is treated at once
def test_two_hot_prediction(rows):
    logits = np.random.default_rng(1).normal(size=(rows, 41))
    bins = symexp_bins(41, -5.0, 5.0).double()
    expected = (np.exp(log_softmax(logits)) * bins.numpy()).sum(-1)
    np.testing.assert_allclose(of_logits(torch.from_numpy(logits), bins).pred().numpy(), expected, rtol=1e-11)


def test_two_hot_loss_keeps_its_gradient_after_a_prediction_without():
    # Fails if the log-probabilities are kept that a call under no_grad has computed; then the
    # critic's value loss, which follows such a call in behaviour_losses, teaches nothing.
    logits = torch.zeros(5, requires_grad=True)
    output = of_logits(logits, BINS.float())
    with torch.no_grad():
        output.pred()
    assert output.loss(torch.tensor(0.25)).requires_grad
    assert not output.pred().requires_grad


@pytest.mark.parametrize("count", [3, 4, 40, 41, 254, 255])
@pytest.mark.parametrize("level", [0.0, 3.7])
def test_uniform_logits_predict_exactly_zero(count, level):
    pred = of_logits(torch.full((5, count), level), symexp_bins(count)).pred()
    assert torch.equal(pred, torch.zeros(5))


def test_symexp_bins():
    e = math.e
    expected = torch.tensor([1 - e**2, 1 - e, 0.0, e - 1, e**2 - 1])
    torch.testing.assert_close(symexp_bins(5, -2.0, 2.0), expected)
    bins = symexp_bins(255)
    assert bins[-1].item() == pytest.approx(math.exp(20) - 1, rel=1e-6)
    assert torch.equal(bins, -bins.flip(0))
    assert (bins.diff() > 0).all()


# Other outputs


def test_mean_square():
    output = MeanSquare(double([[0.0, 1.0, -1.0], [0.0, 0.0, 3.0]]))
    torch.testing.assert_close(output.pred(), double([[0.0, 1.0, -1.0], [0.0, 0.0, 3.0]]))
    target = double([[0.0, 1.0, -1.0], [2.0, -1.0, 3.0]])
    torch.testing.assert_close(output.loss(target), double([0.0, 5.0]))


def test_bernoulli_soft_targets():
    logit, target = np.meshgrid(np.linspace(-6, 6, 25), np.linspace(0, 1, 7))
    p = 1 / (1 + np.exp(-logit))
    output = Bernoulli(torch.from_numpy(logit))
    loss = output.loss(torch.from_numpy(target))
    np.testing.assert_allclose(output.pred().numpy(), p, rtol=1e-14)
    np.testing.assert_allclose(loss.numpy(), -target * np.log(p) - (1 - target) * np.log(1 - p), rtol=1e-10)


def test_bernoulli_golden():
    torch.testing.assert_close(Bernoulli(double([0.0])).loss(double([0.3])), double([math.log(2.0)]))
    # Far out, where the probability itself rounds to 1, the loss is still the logit.
    torch.testing.assert_close(Bernoulli(torch.tensor([100.0])).loss(torch.zeros(1)), torch.tensor([100.0]))
    # The best prediction of a soft target is the target.
    y = 1 - 1 / 333
    logit = double([math.log(y / (1 - y))]).requires_grad_()
    (grad,) = torch.autograd.grad(Bernoulli(logit).loss(double([y])), logit)
    assert abs(grad.item()) < 1e-14


def test_two_hot_with_its_layer_is_two_hot_of_the_logits():
    """Values and gradients, over more rows than are treated together."""
    torch.manual_seed(0)
    bins, rows = symexp_bins(21, -3.0, 3.0).double(), 2500
    x, weight, bias = (
        torch.randn(*shape, dtype=torch.float64) for shape in ((5, rows // 5, 6), (21, 6), (21,))
    )
    targets = torch.randn(2, 5, rows // 5, dtype=torch.float64) * 5.0
    results = []
    for layered in (True, False):
        inputs = [v.clone().requires_grad_() for v in (x, weight, bias)]
        a, w, b = inputs
        output = TwoHot(a, bins, w, b) if layered else of_logits(a @ w.t() + b, bins)
        pred = output.pred()
        loss = output.loss(*targets, scales=(1.0, 0.3))
        gradients = torch.autograd.grad((loss * targets[0].cos()).sum(), inputs)
        results.append((pred, loss.detach(), *gradients))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


def test_targets_and_scales_come_in_pairs():
    output = TwoHot(torch.zeros(3, 4), symexp_bins(5), torch.zeros(5, 4), torch.zeros(5))
    with pytest.raises(ValueError, match="2 targets have 1 scales"):
        output.loss(torch.zeros(3), torch.zeros(3))

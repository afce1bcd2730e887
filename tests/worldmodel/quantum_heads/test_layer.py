"""The layer that is a circuit."""

from contextlib import contextmanager, nullcontext

import pytest
import torch
from torch.testing import assert_close

from qdreamer.native import products
from qdreamer.quantum.circuits.angle_encoding import expected_z
from qdreamer.worldmodel.quantum_heads.layer import RULES, QuantumLayer
from qdreamer.worldmodel.weights.quantum_train import QuantumTrain


def layer(**settings):
    torch.manual_seed(0)
    return QuantumLayer(3, **settings).double()


def inputs(*shape):
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_leads_into_the_unit_interval_and_lets_gradients_through(rule):
    x = inputs(50, 3).requires_grad_()
    scaled = RULES[rule](x)
    assert 0.0 <= scaled.min() <= scaled.max() <= 1.0
    assert scaled.max() - scaled.min() > 0.5
    made = layer(normalize=rule)
    out = made(x)
    assert_close(out, expected_z(scaled, made.angles))
    out.sum().backward()
    assert x.grad.abs().max() > 0 and torch.isfinite(x.grad).all()
    assert made.angles.grad.abs().max() > 0


def test_rows_of_any_shape_are_one_batch():
    made, x = layer(), inputs(2, 5, 3)
    out = made(x)
    assert out.shape == x.shape
    assert_close(out[1, 4], made(x[1, 4]))


def test_a_row_without_spread_has_gradients_under_minmax():
    x = torch.full((1, 3), 2.0, dtype=torch.float64, requires_grad=True)
    layer(normalize="minmax")(x).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_pennylanes_device_gives_the_same():
    x = inputs(4, 3)
    assert_close(layer(device="default.qubit")(x), layer()(x), rtol=0.0, atol=1e-8)


def test_shots_scatter_around_the_exact_value_repeatably_with_its_gradients():
    x = inputs(200, 3)
    exact, noisy = layer(), layer(shots=100)
    first, second = noisy(x), noisy(x)
    assert torch.equal(first, second)
    error = first - exact(x)
    deviation = ((1 - exact(x).square()) / 100).sqrt()
    assert float((error / deviation).std().detach()) == pytest.approx(1.0, abs=0.12)
    assert ((first + 1) * 50 - ((first + 1) * 50).round()).abs().max() < 1e-9  # counts of 100 shots
    for made in (exact, noisy):
        made(x).sum().backward()
    assert_close(noisy.angles.grad, exact.angles.grad)


def test_frozen_angles_are_kept_but_do_not_learn():
    frozen = layer(trainable=False)
    assert list(frozen.parameters()) == []
    assert frozen.state_dict()["angles"].shape == (2, 2, 3, 3)
    assert sum(p.numel() for p in layer().parameters()) == 6 * 3 * 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"blocks": 0}, "must be at least"),
        ({"normalize": "none"}, "normalize=none is not one of sigmoid"),
        ({"shots": 0}, "must be at least"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        layer(**settings)
    with pytest.raises(ValueError, match="do not fit 3 qubits"):
        layer()(inputs(2, 4))


@contextmanager
def products_in_bfloat16():
    products.use_bfloat16(True)
    try:
        yield
    finally:
        products.use_bfloat16(False)


@pytest.mark.parametrize(
    "half",
    [
        products_in_bfloat16,  # precision=bfloat16
        lambda: torch.autocast("cpu", torch.bfloat16),
        lambda: torch.autocast("cpu", torch.float16),
    ],
    ids=["precision", "autocast to bfloat16", "autocast to float16"],
)
def test_circuits_stay_in_float32(half):
    torch.manual_seed(0)
    layer, x = QuantumLayer(4, blocks=2, normalize="sigmoid"), torch.randn(16, 4)
    made = QuantumTrain(200, blocks=2)
    found = []
    for precision in (nullcontext, half):
        with precision():
            z, p = layer(x), made.probabilities()
        gradients = torch.autograd.grad(z.square().sum() + p.square().sum(), [layer.angles, made.angles])
        found.append([z, p, *gradients])
    assert all(a.dtype == torch.float32 for a in found[1])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))

"""Stacks of layers: C against the torch code that defines them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from qdreamer import native
from qdreamer.native import products

pytestmark = pytest.mark.usefixtures("compiled")


def normal(*shape, seed=0, scale=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


@given(rows=st.integers(1, 9), width=st.integers(1, 70), seed=st.integers(0, 99), scale=st.floats(1e-3, 30.0))
def test_a_layer_of_any_width_and_size(rows, width, seed, scale):
    x, weight = normal(rows, 3, seed=seed, scale=scale), normal(width, 3, seed=1)
    layer = native.Layer(weight, scale * normal(width, seed=2), normal(width, seed=3))
    grad = normal(rows, width, seed=4)

    def run(dtype):
        inputs = [tensor.to(dtype, copy=True).requires_grad_() for tensor in (x, *layer)]
        y = native.mlp(inputs[0], [native.Layer(*inputs[1:])])
        with torch.no_grad():
            values = native.mlp(inputs[0], [native.Layer(*inputs[1:])])
        return values, y, *torch.autograd.grad((y * grad).sum(), inputs)

    native.use(True)
    fused, exact = run(torch.float32), run(torch.float64)  # which C does not know
    native.use(False)
    assert torch.equal(fused[0], fused[1])
    for got, expected in zip(fused, exact, strict=True):
        largest = float(expected.detach().abs().max())
        assert_close(got.double(), expected, rtol=1e-5, atol=2e-5 * max(1.0, largest))


@pytest.mark.parametrize("rows", [1, 5000])  # less, and more, than what is treated at once
@pytest.mark.parametrize("inner", [True, False])  # whether the input wants a gradient
@pytest.mark.parametrize("outputs", [None, 1, 37])  # of a linear map behind the layers, if there is one
def test_a_stack_of_layers_and_its_gradients(rows, inner, outputs, threads):
    layers = [
        native.Layer(0.3 * normal(64, width, seed=width), normal(64, seed=1), 1.0 + 0.2 * normal(64, seed=2))
        for width in (20, 64, 64)
    ]
    if outputs:
        layers.append(native.Affine(normal(outputs, 64, seed=5), normal(outputs, seed=6)))
    x, direction = normal(rows, 20), normal(rows, outputs or 64, seed=3)

    def run(dtype):
        given = x.to(dtype, copy=True).requires_grad_(inner)
        copies = [
            type(layer)(*(t.to(dtype, copy=True).requires_grad_() for t in layer if t is not None))
            for layer in layers
        ]
        y = native.mlp(given, copies)
        with torch.no_grad():
            values = native.mlp(given, copies)
        wanted = [t for layer in copies for t in layer if t is not None] + ([given] if inner else [])
        return y, values, *torch.autograd.grad((y * direction).sum(), wanted)

    native.use(True)
    fused, exact = run(torch.float32), run(torch.float64)
    native.use(False)
    for got, expected in zip(fused, exact, strict=True):
        assert_close(got.double(), expected, rtol=1e-4, atol=1e-5 * float(expected.detach().abs().max()))


def test_a_pass_that_kept_its_activations_has_the_same_gradients():
    layers = [
        native.Layer(*(t.requires_grad_() for t in (normal(6, width, seed=1), normal(6), normal(6, seed=2))))
        for width in (4, 6)
    ]
    x, direction, wanted = normal(9, 4), normal(9, 6, seed=3), [t for layer in layers for t in layer]
    y, activations = x, []
    for weight, bias, scale in layers:
        before = torch.nn.functional.linear(y, weight, bias)
        rstd = torch.rsqrt(before.square().mean(-1, keepdim=True) + 1e-4)
        y = torch.nn.functional.silu(before * rstd * scale)
        activations += [(before * rstd).detach(), rstd.detach(), y.detach()]
    expected = torch.autograd.grad((y * direction).sum(), wanted)
    *kept, last = activations
    kept = torch.cat([tensor.flatten() for tensor in kept])
    again = native.mlp_from_activations(x, layers, native.Activations(kept, last))
    assert_close(again, y)
    assert_close(torch.autograd.grad((again * direction).sum(), wanted), expected, rtol=1e-4, atol=1e-5)


def test_what_is_not_a_number_shows():
    native.use(True)
    y = native.mlp(torch.full((1, 8), torch.nan), [native.Layer(torch.eye(8), torch.zeros(8), torch.ones(8))])
    native.use(False)
    assert y.isnan().all()


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[:, 5:25],  # rows farther apart than they are long
        lambda x: x[:1, :20].expand(7, 20),
        lambda x: x.flatten().unfold(0, 20, 1)[:30],  # rows that overlap
        lambda x: x[:0, :20],
    ],
)
def test_rows_that_lie_in_memory_in_other_ways(view):
    layer, last = (
        native.Layer(normal(9, 20), normal(9), normal(9, seed=1)),
        native.Affine(normal(3, 9), normal(3)),
    )
    given = view(normal(40, 30))

    def run(x):
        x = x.detach().requires_grad_()
        y = native.mlp(x, [layer, last])
        return y, torch.autograd.grad(y.square().sum(), x)[0]

    native.use(True)
    found, expected = run(given), run(given.contiguous())
    native.use(False)
    assert_close(found, expected)


def test_what_c_does_not_know_is_left_to_torch():
    layer, affine = (
        native.Layer(torch.eye(8), torch.zeros(8), torch.ones(8)),
        native.Affine(torch.eye(8), torch.ones(8)),
    )
    x, known = normal(3, 8), native.KERNELS["mlp"].supports
    assert known(x, [layer, affine])
    assert not known(x, [affine, layer])
    assert not known(x, [layer, native.Affine(torch.eye(8).double(), torch.ones(8))])
    large = native.Affine(torch.zeros(400, 400), torch.zeros(400))
    assert known(normal(64, 400), [large])
    assert not known(normal(1, 400), [large])  # packing the weight would take longer than the product
    products.use_bfloat16(True)
    assert not known(x, [layer])
    assert not native.KERNELS["two_hot"].supports(x, torch.eye(8), torch.zeros(8), torch.zeros(8))

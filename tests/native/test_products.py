"""Dense products: the same numbers whichever library runs, and the same gradients as autograd's."""

import pytest
import torch
from torch.testing import assert_close

from qdreamer.native import products
from qdreamer.native.products import affine, blockwise, is_intel, product
from qdreamer.worldmodel.networks.layers import BlockLinear, Linear

LARGE, SMALL = 512, 3
CLOSE = {"rtol": 2e-5, "atol": 2e-5}


def double(*tensors):
    return [x.double() for x in tensors]


@pytest.fixture(params=[True, False], ids=["onednn", "torch"])
def library(request, monkeypatch):
    """With oneDNN where it is available and worthwhile, and without it."""
    available = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    if request.param and not available:
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(products, "ONEDNN", request.param)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("rows", [LARGE, SMALL])
@torch.no_grad()
def test_products_against_float64(rows):
    torch.manual_seed(0)
    x, weight, bias, add = (torch.randn(*s) for s in ((rows, 96), (64, 96), (64,), (rows, 64)))
    xd, wd, bd, ad = double(x, weight, bias, add)
    assert_close(affine(x, weight, bias).double(), xd @ wd.T + bd, **CLOSE)
    assert_close(affine(x, weight).double(), xd @ wd.T, **CLOSE)
    strided = torch.stack([bias, bias + 1.0], 1)[:, 0]
    assert_close(affine(x, weight, strided).double(), xd @ wd.T + bd, **CLOSE)
    assert_close(affine(x, weight, torch.cat([add, add], 1)[:, :64]).double(), xd @ wd.T + ad, **CLOSE)
    assert_close(affine(x, weight, add).double(), xd @ wd.T + ad, **CLOSE)
    assert torch.equal(add, ad.float())  # not overwritten
    assert_close(product(x, weight.t()).double(), xd @ wd.T, **CLOSE)
    assert_close(product(x.t(), add).double(), xd.T @ ad, rtol=1e-4, atol=1e-4)  # strided operands
    assert_close(product(x[:, ::2], weight[:, ::2].t()).double(), xd[:, ::2] @ wd[:, ::2].T, **CLOSE)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("rows", [LARGE, SMALL])
@pytest.mark.parametrize("blocks", [1, 4])
def test_blockwise_against_a_dense_matrix(rows, blocks):
    torch.manual_seed(0)
    layer = BlockLinear(128, 256, blocks)
    layer.bias.data.normal_()
    x, add = torch.randn(rows, 128), torch.randn(rows, 256)
    dense = torch.block_diag(*layer.weight.double())
    expected = x.double() @ dense + layer.bias.double()
    for enabled in (True, False):  # autograd's own products, and ours
        with torch.set_grad_enabled(enabled):
            assert_close(layer(x).double(), expected, **CLOSE)
            assert_close(blockwise(x, layer.weight, add).double(), x.double() @ dense + add, **CLOSE)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("rows", [LARGE, SMALL])
def test_gradients_of_linear(rows):
    torch.manual_seed(0)
    layer, x, grad = Linear(96, 64), torch.randn(rows, 96, requires_grad=True), torch.randn(rows, 64)
    layer(x).backward(grad)
    expected = torch.nn.functional.linear(x, layer.weight, layer.bias)
    gradients = torch.autograd.grad(expected, [x, layer.weight, layer.bias], grad)
    assert_close([x.grad, layer.weight.grad, layer.bias.grad], list(gradients), rtol=1e-4, atol=1e-4)


def test_large_products_use_onednn_where_it_exists(monkeypatch):
    if not products.ONEDNN:
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(products, "LEAST", 1)
    x, weight = torch.randn(4, 3), torch.randn(2, 3)
    with torch.no_grad():
        assert products.worthwhile(x, weight)
        assert not products.worthwhile(x.double(), weight.double())
    assert not products.worthwhile(x, weight)  # autograd would not follow it


def test_vendor(tmp_path):
    for vendor, expected in (("GenuineIntel", True), ("AuthenticAMD", False)):
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nvendor_id\t: {vendor}\n")
        assert is_intel(tmp_path / "cpuinfo") is expected
    assert not is_intel(tmp_path / "absent")


def test_bfloat16_rounds_factors_and_results_and_nothing_else():
    torch.manual_seed(0)
    x, weight, bias, add = (torch.randn(*s) for s in ((50, 96), (64, 96), (64,), (50, 64)))
    blocks = torch.randn(4, 24, 16)
    plain = affine(x, weight)
    products.use_bfloat16(True)
    rounded = (x.bfloat16().double() @ weight.bfloat16().double().T).float()  # sums in full
    limit = {"rtol": 2**-8, "atol": 2**-8}
    results = (affine(x, weight), product(x, weight.t()), affine(x, weight, bias) - bias)
    for y in (*results, affine(x, weight, add) - add):
        assert y.dtype == torch.float32
        assert_close(y, rounded, **limit)
    dense = torch.block_diag(*blocks.bfloat16().double())
    assert_close(blockwise(x, blocks), (x.bfloat16().double() @ dense).float(), **limit)
    assert not torch.equal(affine(x, weight), plain)
    assert affine(*double(x, weight)).dtype == torch.float64
    with products.in_float32():
        assert torch.equal(affine(x, weight), plain)
    assert not torch.equal(affine(x, weight), plain)


def test_gradients_in_bfloat16_are_those_of_rounded_factors():
    torch.manual_seed(0)
    linear = Linear(96, 64)
    x = torch.randn(50, 96, requires_grad=True)
    products.use_bfloat16(True)
    linear(x).square().sum().backward()
    assert linear.weight.grad is not None
    assert x.grad is not None
    got = x.grad, linear.weight.grad, linear.bias.grad
    products.use_bfloat16(False)
    x.grad = None
    linear.zero_grad()
    linear(x).square().sum().backward()
    for rounded, exact in zip(got, (x.grad, linear.weight.grad, linear.bias.grad), strict=True):
        assert rounded is not None
        assert rounded.dtype == torch.float32
        assert float((rounded - exact).norm() / exact.norm()) < 2**-6

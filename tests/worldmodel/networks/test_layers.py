"""Layers against NumPy float64, their gradients, and their initialisation."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from qdreamer.worldmodel.networks.heads import TwoHotHead
from qdreamer.worldmodel.networks.layers import MLP, BlockLinear, Linear, NormSiLU, init_weight


def double(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def norm_silu(x, scale):
    """SiLU of x/√(mean x² + 1e-4)·scale, in NumPy."""
    y = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-4) * scale
    return y / (1 + np.exp(-y))


# RMSNorm and SiLU


@pytest.mark.parametrize("shape", [(4, 6), (2, 3, 6)])
@pytest.mark.parametrize("size", [1.0, 1e-2, 1e3])  # 1e-2: where ε = 1e-4 matters
@pytest.mark.parametrize("grad", [True, False])
def test_norm_silu_forward(shape, size, grad):
    module = NormSiLU(6).double()
    module.scale.data.copy_(1.0 + 0.3 * double(6, seed=1))
    x = size * double(*shape)
    with torch.set_grad_enabled(grad):
        y = module(x)
    expected = norm_silu(x.numpy(), module.scale.detach().numpy())
    np.testing.assert_allclose(y.detach().numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 5)])
def test_norm_silu_gradcheck(shape):
    module = NormSiLU(5).double()
    x, scale = 0.1 * double(*shape), 1.0 + 0.3 * double(5, seed=1)
    inputs = (x.requires_grad_(), scale.requires_grad_())
    assert torch.autograd.gradcheck(lambda x, s: functional_call(module, {"scale": s}, (x,)), inputs)


@pytest.mark.parametrize("size", [1.0, 1e-2, 1e-8, 0.0])
def test_norm_silu_gradient_equals_autograd(size):
    module = NormSiLU(5).double()
    module.scale.data.copy_(1.0 + 0.3 * double(5, seed=1))
    x = (size * double(4, 3, 5)).requires_grad_()
    weight = double(4, 3, 5, seed=2)
    y = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-4) * module.scale
    plain = torch.autograd.grad((y * torch.sigmoid(y) * weight).sum(), (x, module.scale))
    ours = torch.autograd.grad((module(x) * weight).sum(), (x, module.scale))
    torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-12)


# Block-linear maps


@pytest.mark.parametrize("blocks", [1, 2, 4])
@pytest.mark.parametrize("shape", [(5, 8), (2, 3, 8)])
def test_block_linear_is_a_block_diagonal_matrix(blocks, shape):
    module = BlockLinear(8, 12, blocks).double()
    module.bias.data.copy_(double(12, seed=1))
    dense = np.zeros((8, 12))
    rows, columns = 8 // blocks, 12 // blocks
    for g in range(blocks):
        block = module.weight[g].detach().numpy()
        dense[g * rows : (g + 1) * rows, g * columns : (g + 1) * columns] = block
    x = double(*shape)
    expected = x.numpy() @ dense + module.bias.detach().numpy()
    np.testing.assert_allclose(module(x).detach().numpy(), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("widths", [(8, 9), (9, 8)])
def test_block_linear_refuses_widths_that_do_not_divide(widths):
    with pytest.raises(ValueError, match="divide by 4 blocks"):
        BlockLinear(*widths, 4)


# Initialisation


def assert_truncated_normal(weight, std):
    """Standard deviation `std`, mean 0, cut at two deviations of the uncut normal."""
    # A unit normal cut at ±2 has variance 1 − 4φ(2)/(2Φ(2) − 1).
    cut = math.sqrt(1 - 4 * math.exp(-2) / math.sqrt(2 * math.pi) / math.erf(math.sqrt(2)))
    count = weight.numel()
    # Five standard errors, each taken as if normal (the cut tails only make them smaller).
    assert weight.std().item() == pytest.approx(std, rel=5 / math.sqrt(2 * count))
    assert abs(weight.mean().item()) < 5 * std / math.sqrt(count)
    limit = 2 * std / cut
    assert 0.98 * limit < weight.abs().max().item() <= 1.001 * limit


def test_initialisation():
    torch.manual_seed(0)
    linear = Linear(400, 250)
    assert_truncated_normal(linear.weight, 1 / 20)
    assert not linear.bias.any()
    assert_truncated_normal(Linear(400, 250, scale=0.01).weight, 0.01 / 20)
    weight = torch.empty(300, 300)
    init_weight(weight, 100, scale=0.5)
    assert_truncated_normal(weight, 0.05)
    block = BlockLinear(400, 800, 4)
    assert_truncated_normal(block.weight, 1 / 10)  # the fan-in of one block
    assert not block.bias.any()
    assert_truncated_normal(BlockLinear(400, 800, 4, fan_in=1600).weight, 1 / 40)


def test_zero_scale_starts_at_zero():
    assert not Linear(7, 5, scale=0.0)(torch.randn(3, 7)).any()
    for layers in (0, 2):
        output = TwoHotHead(6, 8, layers)(torch.randn(4, 6))
        assert torch.equal(output.pred(), torch.zeros(4))


def test_unit_inputs_keep_their_variance_through_linear_and_norm():
    torch.manual_seed(0)
    y = Linear(512, 512)(torch.randn(2048, 512))
    assert y.var().item() == pytest.approx(1.0, rel=0.02)
    assert NormSiLU(512).scale.eq(1.0).all()


# MLP


def test_mlp():
    module = MLP(4, 6, 2).double()
    for parameter in module.parameters():
        parameter.data.add_(0.1)
    x = double(3, 4)
    y = x.numpy()
    layers = list(module)
    assert [type(layer) for layer in layers] == [Linear, NormSiLU] * 2
    for linear, norm in zip(layers[::2], layers[1::2], strict=True):
        y = y @ linear.weight.detach().numpy().T + linear.bias.detach().numpy()
        y = norm_silu(y, norm.scale.detach().numpy())
    np.testing.assert_allclose(module(x).detach().numpy(), y, rtol=1e-12)


def test_mlp_without_layers_is_the_identity():
    x = torch.randn(3, 4)
    module: nn.Module = MLP(4, 6, 0)
    assert torch.equal(module(x), x)


@pytest.mark.parametrize("inner", [True, False])  # whether the input wants a gradient
def test_mlp_gradients_equal_autograd(inner):
    module = MLP(4, 6, 3).double()
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            parameter.add_(0.3 * double(*parameter.shape, seed=i))
    x, weight = double(7, 4).requires_grad_(inner), double(7, 6, seed=1)
    wanted = [x, *module.parameters()] if inner else list(module.parameters())
    y = x
    for linear, norm in zip(list(module)[::2], list(module)[1::2], strict=True):
        y = torch.nn.functional.linear(y, linear.weight, linear.bias)
        y = y * torch.rsqrt((y * y).mean(-1, keepdim=True) + 1e-4) * norm.scale
        y = y * torch.sigmoid(y)
    plain = torch.autograd.grad((y * weight).sum(), wanted)
    torch.testing.assert_close(module(x), y, rtol=1e-10, atol=1e-12)
    ours = torch.autograd.grad((module(x) * weight).sum(), wanted)
    torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(module(x), y.detach(), rtol=1e-10, atol=1e-12)

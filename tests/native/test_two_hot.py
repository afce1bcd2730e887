"""Two-hot scalars: C against the torch code that defines them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from qdreamer import native
from qdreamer.worldmodel.networks.heads import TwoHot, symexp_bins

pytestmark = pytest.mark.usefixtures("compiled")


def normal(*shape, seed=0, scale=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


@given(
    rows=st.sampled_from([1, 2, 30, 1500]),
    count=st.sampled_from([3, 4, 11, 255]),
    width=st.sampled_from([6, 40]),
    scale=st.sampled_from([0.0, 1.0, 60.0]),
    threads=st.sampled_from([1, 2]),
)
def test_two_hot(rows, count, width, scale, threads):
    torch.set_num_threads(threads)
    bins = symexp_bins(count, -5.0, 5.0)
    inputs, weight, bias = (
        normal(rows, width, scale=scale),
        normal(count, width, seed=1),
        normal(count, seed=2),
    )
    target, other = normal(rows, seed=3, scale=20.0), normal(rows, seed=4)

    def run(dtype):
        x, w, b = (t.to(dtype, copy=True).requires_grad_() for t in (inputs, weight, bias))
        output = TwoHot(x, bins.to(dtype), w, b)
        loss = output.loss(target.to(dtype), other.to(dtype), scales=(1.0, 0.5))
        gradients = torch.autograd.grad((loss * other).sum(), [x, w, b])
        return output.pred(), TwoHot(x.detach(), bins.to(dtype), w, b).pred(), loss, *gradients

    native.use(True)
    fused, exact = run(torch.float32), run(torch.float64)
    native.use(False)
    torch.set_num_threads(1)
    # Probabilities are as exact as the logits, whose rounding grows with them.
    largest = float((inputs.abs() @ weight.abs().t()).max())
    close = max(1e-5, 4 * torch.finfo(torch.float32).eps * largest)
    for got, expected in zip(fused, exact, strict=True):
        size = max(1.0, float(expected.detach().abs().max()))
        assert_close(got.double(), expected, rtol=close, atol=close * size)


@pytest.mark.parametrize("count", [3, 255, 256])
def test_uniform_bins_predict_exactly_zero(count):
    native.use(True)
    pred = TwoHot(
        torch.full((5, count), 3.3), symexp_bins(count), torch.eye(count), torch.zeros(count)
    ).pred()
    native.use(False)
    assert torch.equal(pred, torch.zeros(5))


def test_what_is_not_a_number_shows():
    bad = torch.full((1, 8), torch.nan)
    native.use(True)
    output = TwoHot(bad, symexp_bins(8), torch.eye(8), torch.zeros(8))
    pred, loss = output.pred(), output.loss(torch.zeros(1))
    native.use(False)
    assert pred.isnan().all()
    assert loss.isnan().all()

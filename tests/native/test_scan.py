"""The scan over time: C against the loop that defines it, and where which of them runs."""

import pytest
import torch
from torch.testing import assert_close

from qdreamer import native
from qdreamer.native import products
from qdreamer.worldmodel.networks.categorical import frozen_sample
from qdreamer.worldmodel.rssm import Carry
from tests.native.models import perturbed

pytestmark = pytest.mark.usefixtures("compiled")


def normal(*shape, seed=0, scale=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def make_model(make_config, stoch, classes, deter, hidden, blocks, *settings):
    return perturbed(
        make_config, "agent=classical",
        f"world_model.stoch={stoch}", f"world_model.classes={classes}", f"world_model.deter={deter}",
        f"world_model.hidden={hidden}", f"world_model.blocks={blocks}", "world_model.units=10",
        *settings,
    )  # fmt: skip


def filtered(rssm, rows, dtype=torch.float32, frozen=False):
    """Outputs of observe with episodes that begin on the way, and gradients of a function of them all."""
    steps, width = 6, rssm.stoch * rssm.classes
    given = [
        normal(*shape, seed=i).to(dtype).requires_grad_()
        for i, shape in enumerate(
            [(rows, steps, 10), (rows, steps, 2), (rows, rssm.sequence.deter), (rows, width)]
        )
    ]
    embed, action, state, stoch = given
    is_first = (normal(rows, steps, seed=4) > 0.8).to(dtype)
    noise = torch.rand(rows, steps, rssm.stoch, generator=torch.Generator().manual_seed(5)).to(dtype)
    if frozen:
        trajectory = rssm.observe(embed, action, is_first, Carry(state, stoch), noise)
        noise = frozen_sample(trajectory.stoch().detach(), trajectory.posterior.detach())
        noise = noise + 0.1 * normal(*noise.shape, seed=6).to(dtype)  # as after a step: z is no class
    trajectory = rssm.observe(embed, action, is_first, Carry(state, stoch), noise)
    outputs = [trajectory.features, trajectory.posterior, trajectory.prior, *rssm.last(trajectory)[:2]]
    total = sum((y * normal(*y.shape, seed=i)).sum() for i, y in enumerate(outputs))
    inputs = [*given, *rssm.parameters()]
    return outputs, torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True)


def equal(results, expected):
    for got, exact in zip(results[0], expected[0], strict=True):
        assert_close(got, exact.to(got), rtol=1e-5, atol=1e-5)
    for got, exact in zip(results[1], expected[1], strict=True):
        assert_close(got, exact.to(got), rtol=1e-4, atol=1e-5 * max(1.0, float(exact.detach().abs().max())))


@pytest.mark.parametrize("rows", [1, 3, 16, 21])
@pytest.mark.parametrize(
    "sizes", [(3, 4, 16, 8, 4), (5, 17, 36, 7, 2), (2, 2, 64, 40, 1), (32, 4, 128, 32, 8)]
)
@pytest.mark.parametrize("frozen", [False, True])
def test_values_and_gradients_are_those_of_the_loop(make_config, sizes, rows, frozen, threads):
    rssm = make_model(make_config, *sizes).rssm
    native.use(True)
    in_c = filtered(rssm, rows, frozen=frozen)
    with native.without("scan"):
        loop = filtered(rssm, rows, frozen=frozen)
    native.use(False)
    assert not all(torch.equal(a, b) for a, b in zip(in_c[1], loop[1], strict=True))  # two implementations
    equal(in_c, loop)


def test_products_of_weight_gradients_by_onednn(make_config, monkeypatch):
    """The library of large products, with the strided operands that the scan gives it."""
    monkeypatch.setattr(products, "LEAST", 1)
    rssm = make_model(make_config, 3, 4, 16, 8, 4).rssm
    native.use(True)
    in_c = filtered(rssm, 5)
    native.use(False)
    equal(in_c, filtered(rssm.double(), 5, torch.float64))


@pytest.mark.parametrize(
    "settings", [(), ("sequence.layers=2",), ("world_model.posterior_layers=2",)], ids=str
)
def test_what_c_does_not_know_takes_the_loop(make_config, settings):
    rssm = make_model(make_config, 3, 4, 16, 8, 4, *settings).rssm
    results = []
    native.use(True)
    for off in ((), ("scan",)):
        with native.without(*off):
            results.append(filtered(rssm, 3))
    native.use(False)
    equal(*results)


def test_results_repeat(make_config, threads):
    rssm = make_model(make_config, 32, 4, 128, 32, 8).rssm
    native.use(True)
    first, second = filtered(rssm, 16), filtered(rssm, 16)
    native.use(False)
    assert all(torch.equal(a, b) for a, b in zip(first[1], second[1], strict=True))

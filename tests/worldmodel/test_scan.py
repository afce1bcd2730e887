"""The hand-written scan against the loop that defines it: values and gradients in float64."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from qdreamer.native import products
from qdreamer.worldmodel.model import WorldModel
from qdreamer.worldmodel.rssm import Carry
from qdreamer.worldmodel.scan import coupled_scan

BATCH, OBSERVATION, ACTION = 3, 4, 2
CLOSE = {"rtol": 1e-9, "atol": 1e-11}


def make_model(make_config, blocks, classes, *more):
    config = make_config(
        *("agent=classical", "world_model.units=8", "world_model.hidden=8", "world_model.deter=16"),
        *(
            "world_model.stoch=3",
            "world_model.bins=11",
            f"world_model.classes={classes}",
            f"world_model.blocks={blocks}",
            *more,
        ),
    )
    torch.manual_seed(blocks)
    model = WorldModel(
        config.world_model, config.sequence, config.attention, OBSERVATION, False, ACTION
    ).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module", params=[(1, 4), (4, 4), (1, 17), (4, 17)])
def model(make_config, request):
    return make_model(make_config, *request.param)


def everything(model, monkeypatch, scan, seed, steps, resets, dtype=torch.float64):
    """Outputs of observe, and gradients of a random function of them, with or without the scan."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator).to(dtype)

    rssm = model.rssm
    width = rssm.stoch * rssm.classes
    embed, action = normal(BATCH, steps, 8).requires_grad_(), normal(BATCH, steps, ACTION).requires_grad_()
    state, stoch = normal(BATCH, 16).requires_grad_(), normal(BATCH, width).requires_grad_()
    is_first = (torch.rand(BATCH, steps, generator=generator) < resets).to(dtype)
    noise = torch.rand(BATCH, steps, rssm.stoch, generator=generator).to(dtype)
    with monkeypatch.context() as patch:
        patch.setattr("qdreamer.worldmodel.rssm.supports", lambda *_: scan)
        trajectory = rssm.observe(embed, action, is_first, Carry(state, stoch), noise)
        carry = rssm.last(trajectory)
    outputs = [trajectory.features, trajectory.posterior, trajectory.prior, trajectory.states, *carry]
    total = sum((output * normal(*output.shape)).sum() for output in outputs)
    parameters = list(rssm.parameters())
    gradients = torch.autograd.grad(
        total, [embed, action, state, stoch, *parameters], allow_unused=True, materialize_grads=True
    )
    return outputs, gradients


@given(seed=st.integers(0, 2**31 - 1), steps=st.integers(1, 5), resets=st.sampled_from([0.0, 0.3, 1.0]))
def test_scan_equals_loop(model, seed, steps, resets):
    with pytest.MonkeyPatch.context() as patch:
        outputs, gradients = everything(model, patch, True, seed, steps, resets)
        expected_outputs, expected_gradients = everything(model, patch, False, seed, steps, resets)
    assert_close(outputs, expected_outputs, **CLOSE)
    assert_close(gradients, expected_gradients, **CLOSE)


def test_single_precision_by_onednn(make_config, monkeypatch):
    """The kernel of large products, with the strided operands that the scan gives it."""
    monkeypatch.setattr(products, "LEAST", 1)
    for blocks in (1, 4):
        model = make_model(make_config, blocks, 4).float()
        results = []
        for scan in (True, False):
            with pytest.MonkeyPatch.context() as patch:
                results.append(everything(model, patch, scan, 3, 5, 0.3, torch.float32))
        for ours, loop in zip(results[0], results[1], strict=True):
            assert_close(ours, loop, rtol=1e-3, atol=1e-4)


def test_the_scan_is_used_where_it_covers_the_networks(make_config, model, monkeypatch):
    calls = []

    def counted(*args):
        calls.append(args)
        return coupled_scan(*args)

    monkeypatch.setattr("qdreamer.worldmodel.rssm.coupled_scan", counted)

    def observe(model):
        rssm = model.rssm
        inputs = (torch.zeros(BATCH, 2, n, dtype=torch.float64) for n in (8, ACTION))
        noise = rssm.noise(BATCH, 2)
        rssm.observe(*inputs, torch.zeros(BATCH, 2, dtype=torch.float64), rssm.initial(BATCH), noise)

    observe(model)
    assert len(calls) == 1
    with torch.no_grad():
        observe(model)
    for more in ("sequence.layers=2", "world_model.posterior_layers=2"):
        observe(make_model(make_config, 1, 4, more))
    assert len(calls) == 1

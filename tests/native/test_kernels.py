"""The kernels in C against the torch code that they stand in for, and what happens without a compiler."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from qdreamer import native
from qdreamer.native import kernels
from qdreamer.worldmodel.model import WorldModel
from qdreamer.worldmodel.networks.categorical import one_hot, unimix_probs
from qdreamer.worldmodel.networks.two_hot import TwoHot, symexp_bins
from qdreamer.worldmodel.rssm import Carry
from qdreamer.worldmodel.sequence_models.gru import MANY_ROWS, BlockGRU

pytestmark = pytest.mark.usefixtures("compiled")

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
NATIVE = Path(kernels.__file__).parent / "c"


def both(function):
    """What the function returns without and with the kernels."""
    kernels.use(False)
    plain = function()
    kernels.use(True)
    try:
        return plain, function()
    finally:
        kernels.use(False)


def normal(*shape, seed=0, scale=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


@given(extra=st.integers(0, 40), blocks=st.sampled_from([1, 2]), seed=st.integers(0, 20))
def test_one_step_of_the_gru(extra, blocks, seed):
    torch.manual_seed(seed)
    gru = BlockGRU(stoch=6, action=2, deter=20, hidden=7, blocks=blocks)
    with torch.no_grad():
        gru.gates.bias.normal_()
    rows = extra if extra % 2 else MANY_ROWS + extra
    z, u, h = normal(rows, 6, seed=seed), normal(rows, 20, seed=seed + 1), normal(rows, 20, seed=seed + 2)
    into = torch.zeros(rows, 30)  # `out` may be part of something wider

    def run():
        with torch.no_grad():
            return gru.step(z, u, None, h, into[:, 3:23])[0].clone(), into[:, :3].sum(), into[:, 23:].sum()

    for got, expected in zip(*both(run), strict=True):
        assert_close(got, expected, **CLOSE)


@given(
    rows=st.integers(1, 40),
    latents=st.integers(1, 40),
    classes=st.integers(2, 20),
    unimix=st.sampled_from([0.0, 0.01, 0.5]),
    scale=st.sampled_from([0.1, 3.0, 200.0]),
)
def test_draws_invert_the_distribution_function(rows, latents, classes, unimix, scale):
    logits, bias = normal(rows, classes, latents, scale=scale), normal(classes * latents, seed=1)
    uniform = torch.rand(rows, latents, generator=torch.Generator().manual_seed(2))
    out = torch.full((rows, latents * classes + 1), 7.0)
    kernels.use(True)
    kernels.draw_latents(logits, bias, uniform, unimix, out[:, :-1])
    kernels.use(False)
    probs = unimix_probs((logits + bias.view(classes, latents)).double().transpose(1, 2), unimix)
    upper = probs.cumsum(-1)
    drawn = out[:, :-1].view(rows, latents, classes)
    index = (upper <= uniform.unsqueeze(-1)).sum(-1).clamp(max=classes - 1)
    # Rounding decides where the uniform number meets a border.
    sure = (upper - uniform.unsqueeze(-1)).abs().min(-1).values > 1e-6
    assert sure.float().mean() > 0.9 or scale > 100.0
    assert torch.equal(drawn[sure], one_hot(index, drawn, classes)[sure])
    assert torch.equal(drawn.sum(-1), torch.ones(rows, latents))
    assert (out[:, -1] == 7.0).all()


def test_what_is_no_number_shows():
    kernels.use(True)
    bad = torch.full((1, 8), torch.nan)
    results = [
        native.norm_silu(bad, torch.ones(8)),
        TwoHot(bad, symexp_bins(8), torch.eye(8), torch.zeros(8)).pred(),
        TwoHot(bad, symexp_bins(8), torch.eye(8), torch.zeros(8)).loss(torch.zeros(1)),
    ]
    gru = BlockGRU(stoch=6, action=2, deter=8, hidden=4, blocks=2)
    with torch.no_grad():
        out, _ = gru.step(torch.zeros(1, 6), torch.full((1, 8), torch.nan), None, torch.zeros(1, 8))
    kernels.use(False)
    for result in [*results, out]:
        assert result.isnan().all()


def make_model(make_config, stoch, classes, deter, hidden, blocks, *settings):
    config = make_config(
        "agent=classical",
        f"world_model.stoch={stoch}", f"world_model.classes={classes}", f"world_model.deter={deter}",
        f"world_model.hidden={hidden}", f"world_model.blocks={blocks}", "world_model.units=10",
        *settings,
    )  # fmt: skip
    torch.manual_seed(0)
    model = WorldModel(config.world_model, config.sequence, config.attention, 4, False, 2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("rows", [1, 3, 16, 21])
@pytest.mark.parametrize(
    "sizes", [(3, 4, 16, 8, 4), (5, 17, 36, 7, 2), (2, 2, 64, 40, 1), (32, 4, 128, 32, 8)]
)
def test_the_scan(make_config, sizes, rows, threads):
    """Values and gradients of the whole filter, with episodes that begin on the way."""
    rssm = make_model(make_config, *sizes).rssm
    steps, width = 6, rssm.stoch * rssm.classes
    embed, action = normal(rows, steps, 10).requires_grad_(), normal(rows, steps, 2, seed=1).requires_grad_()
    state, stoch = (
        normal(rows, sizes[2], seed=2).requires_grad_(),
        normal(rows, width, seed=3).requires_grad_(),
    )
    is_first = (normal(rows, steps, seed=4) > 0.8).float()
    noise = torch.rand(rows, steps, rssm.stoch, generator=torch.Generator().manual_seed(5))
    inputs = [embed, action, state, stoch, *rssm.parameters()]

    def run():
        trajectory = rssm.observe(embed, action, is_first, Carry(state, stoch), noise)
        carry = rssm.last(trajectory)
        outputs = [trajectory.features, trajectory.posterior, trajectory.prior, *carry]
        total = sum((y * normal(*y.shape, seed=i)).sum() for i, y in enumerate(outputs))
        return outputs, torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True)

    (plain, plain_grads), (fused, fused_grads) = both(run)
    for got, expected in zip(fused, plain, strict=True):
        assert_close(got, expected, **CLOSE)
    for got, expected in zip(fused_grads, plain_grads, strict=True):
        assert_close(got, expected, rtol=1e-4, atol=1e-5 * max(1.0, float(expected.detach().abs().max())))


@pytest.mark.parametrize(("layers", "classes"), [(0, 5), (1, 16), (3, 4)])
@pytest.mark.parametrize("rows", [5, 200])
@torch.no_grad()
def test_prior_draws_equal_torch(make_config, layers, classes, rows, threads):
    model = make_model(make_config, 6, classes, 32, 10, 1, f"world_model.prior_layers={layers}")
    wide = normal(rows, 40)  # h is a part of wider rows
    h, noise = wide[:, :32], torch.rand(rows, 6, generator=torch.Generator().manual_seed(1))
    plain, fused = both(lambda: model.rssm._draw_prior(h, noise))
    assert torch.equal(fused, plain)
    assert len(plain.unique(dim=0)) > 1


def test_results_repeat(make_config, threads):
    model = make_model(make_config, 32, 4, 128, 32, 8)
    embed, action = normal(16, 20, 10), normal(16, 20, 2, seed=1)
    noise = torch.rand(16, 20, 32, generator=torch.Generator().manual_seed(5))

    def run():
        trajectory = model.rssm.observe(embed, action, torch.zeros(16, 20), model.rssm.initial(16), noise)
        loss = model.reward(trajectory.features).loss(torch.zeros(16, 20)).sum()
        return torch.autograd.grad(
            loss, list(model.reward.parameters()) + list(model.rssm.sequence.parameters())
        )

    kernels.use(True)
    first, second = run(), run()
    kernels.use(False)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))

"""The kernels in C against the torch code that they stand in for, and what happens without a compiler."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qdreamer import native
from qdreamer.native import kernels
from qdreamer.worldmodel.model import WorldModel
from qdreamer.worldmodel.networks.categorical import one_hot, unimix_probs
from qdreamer.worldmodel.networks.two_hot import TwoHot, symexp_bins

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
    kernels.use(False)
    for result in results:
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

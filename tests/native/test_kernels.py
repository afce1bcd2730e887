"""The kernels in C against the torch code that they stand in for, and what happens without a compiler."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from qdreamer.native import compiler, kernels
from qdreamer.native.norm_silu import norm_silu, norm_silu_backward
from qdreamer.worldmodel.model import WorldModel
from qdreamer.worldmodel.networks.categorical import one_hot, unimix_probs
from qdreamer.worldmodel.networks.layers import MLP
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


@given(rows=st.integers(1, 9), width=st.integers(1, 70), seed=st.integers(0, 99), scale=st.floats(1e-3, 30.0))
def test_norm_silu_and_its_gradient(rows, width, seed, scale):
    x, bias = normal(rows, width, seed=seed, scale=scale), normal(width, seed=seed + 1)
    gain, grad = normal(width, seed=seed + 2), normal(rows, width, seed=seed + 3)
    exact = [t.double() for t in norm_silu((x + bias).double(), gain.double())]
    kernels.use(True)
    y, unit, inverse = kernels.norm_silu(x.clone(), bias, gain, None, keep=True)
    only = kernels.norm_silu(x.clone(), bias, gain, None, keep=False)[0]
    fused = norm_silu_backward(grad, unit, inverse, gain)
    kernels.use(False)
    for got, expected in zip((y, unit, inverse), exact, strict=True):
        assert_close(got.double(), expected, **CLOSE)
    assert torch.equal(only, y)
    for got, expected in zip(fused, norm_silu_backward(grad, unit, inverse, gain), strict=True):
        assert_close(got, expected, rtol=1e-5, atol=1e-5 * float(1 + inverse.max()))


def test_layers_over_more_rows_than_are_treated_at_once(threads):
    torch.manual_seed(1)
    stack = MLP(20, 64, 3)
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    x, direction = normal(5000, 20).requires_grad_(), normal(5000, 64, seed=3)

    def run():
        y = stack(x)
        with torch.no_grad():
            values = stack(x)
        return y, values, *torch.autograd.grad((y * direction).sum(), [x, *stack.parameters()])

    for got, expected in zip(*both(run), strict=True):
        assert_close(got, expected, rtol=1e-4, atol=1e-5 * float(expected.detach().abs().max()))


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


@given(
    rows=st.integers(1, 30), count=st.sampled_from([3, 4, 11, 255]), scale=st.sampled_from([0.0, 1.0, 60.0])
)
def test_two_hot(rows, count, scale):
    bins = symexp_bins(count, -5.0, 5.0)
    inputs, weight, bias = normal(rows, 6, scale=scale), normal(count, 6, seed=1), normal(count, seed=2)
    target, other = normal(rows, seed=3, scale=20.0), normal(rows, seed=4)

    def run(dtype):
        x, w, b = (t.to(dtype, copy=True).requires_grad_() for t in (inputs, weight, bias))
        output = TwoHot(x, bins.to(dtype), w, b)
        loss = output.loss(target.to(dtype), other.to(dtype), scales=(1.0, 0.5))
        gradients = torch.autograd.grad((loss * other).sum(), [x, w, b])
        return output.pred(), TwoHot(x.detach(), bins.to(dtype), w, b).pred(), loss, *gradients

    kernels.use(True)
    fused, exact = run(torch.float32), run(torch.float64)
    kernels.use(False)
    # Probabilities are as exact as the logits, whose rounding grows with them.
    largest = float((inputs.abs() @ weight.abs().t()).max())
    close = max(1e-5, 4 * torch.finfo(torch.float32).eps * largest)
    for got, expected in zip(fused, exact, strict=True):
        size = max(1.0, float(expected.detach().abs().max()))
        assert_close(got.double(), expected, rtol=close, atol=close * size)


@pytest.mark.parametrize("count", [3, 255, 256])
def test_uniform_bins_predict_exactly_zero(count):
    kernels.use(True)
    pred = TwoHot(torch.full((5, count), 3.3), symexp_bins(count)).pred()
    kernels.use(False)
    assert torch.equal(pred, torch.zeros(5))


def test_what_is_no_number_shows():
    kernels.use(True)
    bad = torch.full((1, 8), torch.nan)
    results = [
        kernels.norm_silu(bad.clone(), None, torch.ones(8), None, keep=False)[0],
        TwoHot(bad, symexp_bins(8)).pred(),
        TwoHot(bad, symexp_bins(8)).loss(torch.zeros(1)),
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


def test_a_library_is_made_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    sources = sorted(NATIVE.iterdir())
    told = []
    compiler.load(sources, lambda: told.append("begins"))
    (made,) = (tmp_path / "qdreamer").iterdir()  # and nothing else is left there
    monkeypatch.setattr(compiler, "build", lambda *_: pytest.fail("built again"))
    compiler.load(sources, lambda: told.append("begins"))
    assert told == ["begins"]
    (changed := tmp_path / "kernels.c").write_text("int changed;")
    flags = [*compiler.FLAGS, "-fopenmp"]
    names = {compiler.fingerprint(files, compiler.find_compiler(), flags) for files in (sources, [changed])}
    assert made.stem in names
    assert len(names) == 2


@pytest.mark.parametrize("trouble", ["no compiler", "failing compiler", "no place", "wrong code"])
def test_without_a_library_it_says_why(tmp_path, monkeypatch, trouble):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    sources = sorted(NATIVE.iterdir())
    if trouble == "no compiler":
        monkeypatch.setenv("PATH", str(tmp_path))
    elif trouble == "failing compiler":
        monkeypatch.setenv("CC", "false")
    elif trouble == "no place":
        (tmp_path / "qdreamer").write_text("a file, no folder")
    else:
        sources = [tmp_path / "wrong.c"]
        sources[0].write_text("int f(void) { return x; }")
    with pytest.raises(compiler.CompileError) as caught:
        compiler.load(sources)
    assert "\n" not in str(caught.value)
    assert {"no compiler": "no C compiler", "wrong code": "wrong.c"}.get(trouble, "made no library") in str(
        caught.value
    )


def test_threads_of_the_library_are_those_of_torch():
    """A second pool beside torch's would have both cores wait for each other."""
    code = (
        "import torch; from qdreamer.native import kernels; kernels.use(True); torch.set_num_threads(2);"
        "x = torch.randn(4096, 64); kernels.norm_silu(x, None, x[0].clone(), None, True); torch.mm(x, x.t());"
        "files = {line.split()[-1] for line in open('/proc/self/maps')};"
        "print(sum('gomp' in f or 'iomp' in f or 'libomp' in f for f in files))"
    )
    if not Path("/proc/self/maps").exists():
        pytest.skip("no list of loaded libraries")
    root = Path(kernels.__file__).parents[1]
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=os.environ, capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "1"

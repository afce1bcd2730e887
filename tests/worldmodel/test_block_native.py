"""The transformer's blocks in C against the modules that define them: values, all gradients, exact causality."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from worldmodel import block_native, compiler, kernels
from worldmodel.sequences import make_sequence

ACTION, STOCH = 2, 12
SHAPES = {
    "small": ("world_model.width=20", "sequence.heads=3", "sequence.head=6", "sequence.hidden=9"),
    "tiny": ("world_model.width=128", "sequence.layers=1"),
}


@pytest.fixture(scope="module", autouse=True)
def library():
    try:
        kernels.use(True)
    except compiler.CompileError as error:
        pytest.skip(str(error))
    finally:
        kernels.use(False)


@pytest.fixture
def native():
    kernels.use(True)
    yield
    kernels.use(False)


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def build(make_config):
    """`build(attention, shape, window)`: a transformer in float32, all parameters random."""

    def make(attention, shape="small", window=300, *settings):
        config = make_config(
            "sequence=transformer", f"attention={attention}", f"sequence.window={window}", "sequence.layers=2",
            *SHAPES[shape], *settings,
        )  # fmt: skip
        torch.manual_seed(0)
        model = make_sequence(config.sequence, config.attention, STOCH, ACTION)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        return model

    return make


def inputs(rows, steps, seed=0, chance=0.1):
    generator = torch.Generator().manual_seed(seed)
    stoch, action = (torch.randn(rows, steps, n, generator=generator) for n in (STOCH, ACTION))
    return stoch, action, (torch.rand(rows, steps, generator=generator) < chance).float()


def outcome(model, stoch, action, is_first):
    """Outputs, gradients of inputs and parameters, and the heads that are left for imagination."""
    stoch, action = stoch.clone().requires_grad_(), action.clone().requires_grad_()
    h, trail, last = model.observe(stoch, action, is_first, model.initial(len(stoch)))
    direction = torch.randn(h.shape, generator=torch.Generator().manual_seed(9))
    gradients = torch.autograd.grad((h * direction).sum(), [stoch, action, *model.parameters()])
    with torch.no_grad():
        starts = model.select(trail, None, torch.arange(len(stoch)).unsqueeze(1) % stoch.shape[1])
        imagined = model.step(stoch[:, 0], model.drive(action[:, 0], None), None, starts)[0]
        after = model.step(stoch[:, 0], model.drive(action[:, 0], None), None, last)[0]
    return h, imagined, after, *gradients


@pytest.mark.parametrize("attention", ["softmax", "coherent", "born"])
@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize(("steps", "window"), [(64, 300), (67, 13), (200, 300), (1, 2), (5, 4)])
def test_blocks_equal_the_modules(build, threads, attention, shape, steps, window):
    model = build(attention, shape, window)
    data = inputs(3, steps, chance=0.02 if steps > 99 else 0.1)
    expected = [x.double() for x in outcome(model.double(), *(x.double() for x in data))]
    model = model.float()
    kernels.use(False)
    plain = outcome(model, *data)
    kernels.use(True)
    try:
        fused = outcome(model, *data)
    finally:
        kernels.use(False)
    for got, torch_got, exact in zip(fused, plain, expected, strict=True):
        size = float(exact.detach().abs().max())
        error = float((torch_got.double() - exact).detach().abs().max())  # torch's own rounding
        assert_close(got.double(), exact, rtol=0.0, atol=max(4.0 * error, 1e-5 * size, 1e-6))


def test_blocks_are_used(build, native, monkeypatch):
    native_run = block_native.run
    for attention in ("softmax", "coherent", "born"):
        model = build(attention)
        called = []
        monkeypatch.setattr(block_native, "run", lambda *a, called=called: called.append(1) or native_run(*a))
        outcome(model, *inputs(2, 7))
        assert len(called) == 2


@pytest.mark.parametrize(
    "settings",
    [
        ("coherent", "attention.noise=0.1"),
        ("born", "attention.noise=0.1"),
        ("born", "attention.complex=true"),
        ("born", "attention.decay=false"),
        ("coherent", "attention.curriculum.last=0.5"),
        ("sampled",),
    ],
)
def test_what_blocks_do_not_know_takes_the_modules(build, native, settings):
    model = build(settings[0], "small", 300, *settings[1:])
    x = torch.zeros(2, 5, 20)
    past = model.initial(2).layers[0]
    assert not block_native.covers(model.layers()[0], x, past)


@given(
    attention=st.sampled_from(["softmax", "coherent", "born"]),
    seed=st.integers(0, 99),
    t=st.integers(0, 39),
    steps=st.integers(1, 40),
)
def test_no_change_reaches_the_past_or_another_episode(build, attention, seed, t, steps):
    model = build(attention, window=23)
    t = t % steps
    stoch, action, is_first = inputs(2, steps, seed)
    changed = stoch.clone()
    changed[:, t] += 3.0
    episode = is_first.cumsum(1)
    reached = (torch.arange(steps) >= t) & (episode == episode[:, t : t + 1])  # (B, T)
    kernels.use(True)
    try:
        before, after = (
            model.observe(z, action, is_first, model.initial(2))[0] for z in (stoch, changed)
        )
        assert torch.equal(before[~reached], after[~reached])
        # And back: what is seen at t says nothing to later steps and other episodes.
        stoch.requires_grad_()
        h = model.observe(stoch, action, is_first, model.initial(2))[0]
        (gradient,) = torch.autograd.grad(h[:, t].square().sum(), stoch)
    finally:
        kernels.use(False)
    saw = (torch.arange(steps) <= t) & (episode == episode[:, t : t + 1])
    assert not gradient[~saw].any()

"""The transformer's blocks in C against the modules that define them, and exact causality."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from qdreamer import native
from qdreamer.worldmodel.networks.categorical import sample_straight_through, unimix_probs
from qdreamer.worldmodel.networks.layers import RMSNorm
from qdreamer.worldmodel.sequence_models.interface import make_sequence

pytestmark = pytest.mark.usefixtures("compiled")

ACTION, STOCH = 2, 12
SHAPES = {
    "small": ("world_model.width=20", "sequence.heads=3", "sequence.head=6", "sequence.hidden=9"),
    "tiny": ("world_model.width=128", "sequence.layers=1"),
}


@pytest.fixture
def in_c():
    native.use(True)
    yield
    native.use(False)


@pytest.fixture(scope="module")
def build(make_config):
    """`build(attention, shape, window)`: a transformer in float32, all parameters random."""

    def make(attention, shape="small", window=300, *settings):
        config = make_config(
            "sequence=transformer", "sequence.layers=2", f"attention={attention}",
            f"sequence.window={window}", *SHAPES[shape], *settings,
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
    h, trail = model.observe(stoch, action, is_first, model.initial(len(stoch)))
    last = model.last(trail)
    direction = torch.randn(h.shape, generator=torch.Generator().manual_seed(9))
    gradients = torch.autograd.grad((h * direction).sum(), [stoch, action, *model.parameters()])
    with torch.no_grad():
        starts = model.select(trail, None, torch.arange(len(stoch)).unsqueeze(1) % stoch.shape[1])
        imagined = model.step(stoch[:, 0], model.action_embedding(action[:, 0], None), None, starts)[0]
        after = model.step(stoch[:, 0], model.action_embedding(action[:, 0], None), None, last)[0]
    return h, imagined, after, *gradients


@pytest.mark.parametrize("attention", ["softmax", "coherent", "uniform", "random_keys"])
@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize(("steps", "window"), [(64, 300), (67, 13), (200, 300), (1, 2), (5, 4)])
def test_blocks_equal_the_modules(build, threads, attention, shape, steps, window):
    model = build(attention, shape, window)
    data = inputs(3, steps, chance=0.02 if steps > 99 else 0.1)
    expected = [x.double() for x in outcome(model.double(), *(x.double() for x in data))]
    model = model.float()
    native.use(False)
    plain = outcome(model, *data)
    native.use(True)
    try:
        fused = outcome(model, *data)
    finally:
        native.use(False)
    names = ["h", "imagined", "after", "stoch", "action", *(name for name, _ in model.named_parameters())]
    for name, got, torch_got, exact in zip(names, fused, plain, expected, strict=True):
        size = float(exact.detach().abs().max())
        error = float((torch_got.double() - exact).detach().abs().max())  # torch's own rounding
        # The gradient of a photon number is a sum over all pairs that nearly cancels.
        rounding, least = (3e-5, 1e-5) if "photon" in name else (1e-5, 1e-6)
        assert_close(got.double(), exact, rtol=0.0, atol=max(4.0 * error, rounding * size, least))


def counted(monkeypatch):
    """A list that grows with every block in C."""
    calls, call = [], native.transformer_block.call
    monkeypatch.setattr(native.transformer_block, "call", lambda *args: calls.append(args) or call(*args))
    return calls


@pytest.mark.parametrize("attention", ["softmax", "coherent", "uniform", "random_keys"])
def test_blocks_are_used(build, in_c, monkeypatch, attention):
    calls = counted(monkeypatch)
    outcome(build(attention), *inputs(2, 7))
    assert len(calls) == 2


@pytest.mark.parametrize(
    "settings",
    [
        ("coherent", "attention.noise=0.1"),
        ("born",),
        ("coherent", "attention.curriculum.last=0.5"),
        ("sampled",),
    ],
)
def test_what_blocks_do_not_know_takes_the_modules(build, in_c, monkeypatch, settings):
    calls = counted(monkeypatch)
    outcome(build(settings[0], "small", 300, *settings[1:]), *inputs(2, 7))
    assert not calls


@given(
    attention=st.sampled_from(["softmax", "coherent"]),
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
    native.use(True)
    try:
        before, after = (model.observe(z, action, is_first, model.initial(2))[0] for z in (stoch, changed))
        assert torch.equal(before[~reached], after[~reached])
        # And back: what is seen at t says nothing to later steps and other episodes.
        stoch.requires_grad_()
        h = model.observe(stoch, action, is_first, model.initial(2))[0]
        (gradient,) = torch.autograd.grad(h[:, t].square().sum(), stoch)
    finally:
        native.use(False)
    saw = (torch.arange(steps) <= t) & (episode == episode[:, t : t + 1])
    assert not gradient[~saw].any()


@given(classes=st.integers(2, 40), unimix=st.sampled_from([0.0, 0.01]), scale=st.sampled_from([1.0, 30.0]))
def test_probabilities_and_their_gradient(classes, unimix, scale):
    logits = torch.randn(5, 9, classes).mul_(scale).requires_grad_()
    direction, uniform = torch.randn(5, 9, classes), torch.rand(5, 9)

    def run():
        probs = unimix_probs(logits, unimix)
        return probs, *torch.autograd.grad((probs * direction).sum(), logits)

    plain = run()
    native.use(True)
    try:
        for got, wanted in zip(run(), plain, strict=True):
            assert_close(got, wanted, rtol=1e-4, atol=2e-6 * scale)
        drawn = sample_straight_through(plain[0], uniform)
    finally:
        native.use(False)
    # A number within rounding of a boundary may fall on either side.
    sure = ((plain[0].cumsum(-1) - uniform.unsqueeze(-1)).abs() > 1e-5).all(-1)
    assert torch.equal(drawn[sure], sample_straight_through(plain[0], uniform)[sure])
    assert torch.equal(drawn.sum(-1), torch.ones(5, 9))


def test_rms_norm_and_its_gradient():
    norm = RMSNorm(19)
    with torch.no_grad():
        norm.scale.normal_()
    x, direction = torch.randn(3, 7, 19).requires_grad_(), torch.randn(3, 7, 19)

    def run():
        y = norm(x)
        return y, *torch.autograd.grad((y * direction).sum(), [x, norm.scale])

    plain = run()
    native.use(True)
    try:
        for got, wanted in zip(run(), plain, strict=True):
            assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    finally:
        native.use(False)


def remembered(memory, h, stoch, action, is_first, stored):
    """Both reads, gradients of inputs and parameters, and what an imagined step makes of the trail."""
    h, stoch = h.clone().requires_grad_(), stoch.clone().requires_grad_()
    state = memory.initial(len(h)) if stored is None else memory.stored(*stored)
    before, after, states = memory.observe(h, stoch, stoch[:, -1], action, is_first, state)
    generator = torch.Generator().manual_seed(9)
    total = sum((x * torch.randn(x.shape, generator=generator).to(x)).sum() for x in (before, after))
    gradients = torch.autograd.grad(total, [h, stoch, *memory.parameters()])
    with torch.no_grad():
        starts = memory.select(states, None, torch.arange(len(h)).unsqueeze(1) % h.shape[1])
        asked, asking = memory.ask(h[:, 0], stoch[:, 0], action[:, 0], starts)
        kept, _ = memory.append(stoch[:, 1], asking)
    return before, after, asked, kept, *gradients


@pytest.mark.parametrize("attention", ["softmax", "coherent", "uniform", "random_keys"])
@pytest.mark.parametrize(
    ("steps", "past", "window"), [(16, 0, 64), (16, 48, 64), (33, 70, 40), (5, 7, 3), (90, 15, 300)]
)
def test_memory_in_c_equals_the_modules(
    make_config, in_c, monkeypatch, threads, attention, steps, past, window
):
    config = make_config(
        "sequence=gru_attention", "sequence.deter=24", f"attention={attention}", f"sequence.window={window}"
    )
    torch.manual_seed(0)
    memory = make_sequence(config.sequence, config.attention, STOCH, ACTION).memory
    with torch.no_grad():
        for parameter in memory.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    rows, deter = 3, 24
    stoch, action, is_first = inputs(rows, steps, chance=0.06)
    h, stored = torch.randn(rows, steps, deter).tanh(), None
    if past:
        segments = torch.zeros(rows, past, dtype=torch.long)
        segments[1, : past // 2] = -1
        classes, action_before = torch.randint(STOCH // 3, (rows, past, 3)), inputs(rows, past)[1]
        stored = torch.randn(rows, past, deter).tanh(), classes, action_before, segments
    data = h, stoch, action, is_first

    def exactly(tensors):
        return tuple(x.double() if x.is_floating_point() else x for x in tensors)

    calls = counted(monkeypatch)
    fused = remembered(memory, *data, stored)
    assert len(calls) == 1
    native.use(False)
    plain = remembered(memory, *data, stored)
    exact = remembered(memory.double(), *exactly(data), stored and exactly(stored))
    for got, torch_got, wanted in zip(fused, plain, exact, strict=True):
        size = float(wanted.detach().abs().max())
        error = float((torch_got.double() - wanted).detach().abs().max())  # torch's own rounding
        assert_close(got.double(), wanted, rtol=0.0, atol=max(4.0 * error, 1e-5 * size, 1e-6))

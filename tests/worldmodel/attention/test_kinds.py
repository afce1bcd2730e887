"""What every kind of attention has to do, whatever its weights are."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from qdreamer.worldmodel.attention.config import ATTENTION, make_kind
from qdreamer.worldmodel.attention.kernel import causal, segment_causal, segment_ids
from qdreamer.worldmodel.attention.rotary import rotate

NAMES = [
    "softmax", "coherent", "coherent-noise", "uniform", "random-keys", "born", "born-complex", "born-noise",
    "sampled-importance", "sampled-stratified", "sampled-systematic", "sampled-adaptive",
    "sampled-topk_rest", "sampled-control",
]  # fmt: skip
DIFFERENTIABLE = [name for name in NAMES if not name.startswith("sampled")]
STEPS, BATCH, HEADS = 9, 2, 2
FORMS = ("causal", "mask", "bias", "valid", "decay", "chunked", "window")
seeds = st.integers(0, 2**31)
resets = st.lists(st.booleans(), min_size=BATCH * STEPS, max_size=BATCH * STEPS).map(
    lambda flags: torch.tensor(flags, dtype=torch.float64).view(BATCH, STEPS)
)


def drawing():
    return torch.Generator().manual_seed(7)


def attend(kind, form, q, k, v, segments):
    """Causal attention within segments, the rules given in one of the forms that there are."""
    generator = drawing()
    log_decay = torch.linspace(-1.0, -0.1, STEPS, dtype=q.dtype).expand(BATCH, HEADS, STEPS)
    if form == "mask":
        return kind.attend(q, k, v, segment_causal(segments), generator=generator)
    if form == "bias":
        bias = torch.zeros(BATCH, 1, STEPS, STEPS, dtype=q.dtype)
        return kind.attend(
            q, k, v, None, bias.masked_fill(~segment_causal(segments), -torch.inf), generator=generator
        )
    if form == "window":
        near = segment_causal(segments) & torch.ones(STEPS, STEPS, dtype=torch.bool).triu(-3)
        return kind.attend(q, k, v, near, generator=generator)
    if form == "valid":
        valid = torch.arange(STEPS).expand(BATCH, -1) != 3
        return kind.attend_causal(q, k, v, segments, valid, generator=generator)
    if form == "decay":
        return kind.attend_causal(q, k, v, segments, None, log_decay, generator=generator)
    if form == "chunked":  # the same steps in one long row; the last of them lie on both sides of step 96
        many = [x.repeat(1, 1, 11, 1) for x in (q, k, v)]
        long = torch.cat([segments + i * (STEPS + 1) for i in range(11)], -1)
        decay = log_decay.repeat(1, 1, 11)
        out = kind.attend_causal(*many, long, None, decay, generator=generator)
        return out[:, :, -STEPS:]
    return kind.attend_causal(q, k, v, segments, generator=generator)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=8)
@given(seeds, resets, st.integers(0, STEPS - 1))
def test_no_change_reaches_the_past_or_another_segment(make, heads_of, name, form, seed, is_first, time):
    """Exactly, bit by bit: later inputs for what is before `time`; earlier ones for what is after a reset."""
    kind = make(name)
    inputs, others = heads_of(seed, STEPS), heads_of(seed + 1, STEPS)
    late = torch.arange(STEPS).unsqueeze(-1) >= time
    plain = attend(kind, form, *inputs, segment_ids(is_first))
    changed = [torch.where(late, y, x) for x, y in zip(inputs, others, strict=True)]
    after = attend(kind, form, *changed, segment_ids(is_first))
    assert torch.equal(plain[:, :, :time], after[:, :, :time])
    assert not torch.equal(plain[:, :, time:], after[:, :, time:])
    is_first[:, time] = 1.0
    plain = attend(kind, form, *inputs, segment_ids(is_first))
    changed = [torch.where(late, x, y) for x, y in zip(inputs, others, strict=True)]
    after = attend(kind, form, *changed, segment_ids(is_first))
    assert torch.equal(plain[:, :, time:], after[:, :, time:])


@pytest.mark.parametrize("form", ["causal", "decay", "mask"])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_neither_the_future_nor_another_segment(make, heads_of, name, form):
    kind = make(name)
    inputs = [x.requires_grad_() for x in heads_of(3, STEPS)]
    is_first = torch.zeros(BATCH, STEPS)
    is_first[:, 4] = 1.0
    out = attend(kind, form, *inputs, segment_ids(is_first))
    gradients = torch.autograd.grad(out[:, :, 6].square().sum(), inputs)
    for source, gradient in zip("qkv", gradients, strict=True):
        assert not gradient[:, :, :4].any()
        assert not gradient[:, :, 7:].any()
        assert bool(gradient[:, :, 6].any()) == (name != "uniform" or source == "v")


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradcheck(make, heads_of, name):
    kind = make(name)
    parameters = list(kind.parameters())
    inputs = [x.requires_grad_() for x in heads_of(0, 4, width=4)]
    kind = make(name, width=4)
    parameters = list(kind.parameters())
    bias = torch.randn(4, 4, dtype=torch.float64, requires_grad=True)
    mask = causal(4)
    mask[0] = False  # a query that may see nothing

    def masked(q, k, v, bias, *_):
        return kind.attend(q, k, v, mask, bias)

    assert torch.autograd.gradcheck(masked, [*inputs, bias, *parameters])
    log_decay = torch.linspace(-1.0, -0.2, 4, dtype=torch.float64).repeat(2, 2, 1).requires_grad_()
    segments = segment_ids(torch.tensor([[0.0, 0, 1, 0], [1, 0, 0, 0]]))

    def over_time(q, k, v, log_decay, *_):
        return kind.attend_causal(q, k, v, segments, None, log_decay)

    assert torch.autograd.gradcheck(over_time, [*inputs, log_decay, *parameters])


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_those_that_attend_uses(make, heads_of, name):
    kind = make(name)
    q, k, v = heads_of(1, STEPS)
    mask, bias = causal(STEPS), torch.randn(STEPS, STEPS, dtype=torch.float64)
    for training in (True, False):
        kind.train(training)
        weights = kind.applied_weights(q, k, mask, bias, generator=drawing())
        assert_close(weights @ v, kind.attend(q, k, v, mask, bias, generator=drawing()))
        assert (weights >= 0).all()
        assert not weights.masked_select(~mask).any()
        assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    exact = kind.weights(q, k, mask, bias)
    assert_close(exact.sum(-1), torch.ones_like(exact[..., 0]))
    if name in DIFFERENTIABLE:
        assert_close(exact, kind.eval().applied_weights(q, k, mask, bias))


@pytest.mark.parametrize("name", NAMES)
def test_a_query_that_may_see_nothing_gets_zeros(make, heads_of, name):
    kind = make(name)
    q, k, v = (x.requires_grad_() for x in heads_of(2, STEPS))
    mask = causal(STEPS)
    mask[4] = False
    bias = torch.zeros(STEPS, STEPS, dtype=torch.float64)
    bias[5] = -torch.inf
    out = kind.attend(q, k, v, mask, bias, generator=drawing())
    assert not out[:, :, 4:6].any()
    assert out[:, :, 6].any()
    for gradient in torch.autograd.grad(out.square().sum(), [q, k, v]):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_a_bias_multiplies_the_kernel(make, heads_of, name):
    kind = make(name)
    q, k, _ = heads_of(4, STEPS)
    bias = torch.randn(STEPS, STEPS, dtype=torch.float64)
    weights = kind.weights(q, k) * bias.exp()
    assert_close(kind.weights(q, k, None, bias), weights / weights.sum(-1, keepdim=True))
    assert_close(kind.weights(q, k, None, bias), kind.weights(q, k, None, bias + 800.0))


@pytest.mark.parametrize("name", NAMES)
def test_rotary_phases_know_only_distances(make, heads_of, name):
    kind = make(name)
    q, k, _ = heads_of(5, STEPS)
    positions = torch.arange(STEPS)
    here, there = (kind.weights(rotate(q, p), rotate(k, p)) for p in (positions, positions + 1000))
    assert_close(here, there)
    assert torch.allclose(here, kind.weights(q, k)) == (name == "uniform")


@pytest.mark.parametrize("name", NAMES)
def test_cached_keys_that_are_already_encoded(make, heads_of, name):
    kind = make(name).eval()
    q, k, v = heads_of(3, STEPS)
    bias = torch.zeros(STEPS, STEPS, dtype=torch.float64).masked_fill(~causal(STEPS), -torch.inf)
    with torch.no_grad():
        expected = kind.weights(q, k, None, bias) @ v
        assert_close(kind.attend_encoded(kind.encode(q), kind.encode(k), v, bias), expected)


def test_heads_with_different_widths_of_values(make, heads_of):
    for name in NAMES:
        q, k, v = heads_of(6, STEPS, values=3)
        assert make(name).attend_causal(q, k, v, generator=drawing()).shape == (BATCH, HEADS, STEPS, 3)


def test_wrong_names_and_settings_are_refused_in_one_line():
    for name, wrong, message in (
        ("quantum", {}, "quantum is not one of born, circuit, coherent"),
        ("softmax", {"noise": 0.1}, "it has no settings"),
        ("born", {"flor": 0.1}, "it has noise, floor, complex, overlaps"),
        ("born", {"floor": 1e-4}, "below 0.001"),
        ("coherent", {"noise": 1.5}, "between 0 and 1"),
        ("sampled", {"strategy": "luck"}, "choose one of importance"),
        ("sampled", {"draws": 8, "top": 8}, "need 1 ≤ top < draws"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            make_kind(name, 2, 4, **wrong)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="even head width"):
        make_kind("born", 2, 5, complex=True)
    assert set(ATTENTION.names()) >= {
        *("softmax", "coherent", "born", "circuit", "sampled", "uniform", "random_keys")
    }

"""The transformer beyond the contract of sequence models: window, curriculum, a look inside, configs."""

import pytest
import torch
from torch.testing import assert_close

from qdreamer.configs.schema import ConfigError
from qdreamer.worldmodel.sequence_models.interface import make_sequence
from qdreamer.worldmodel.sequence_models.mixed_attention import MixedAttention
from qdreamer.worldmodel.sequence_models.transformer import Transformer

BATCH, STEPS, STOCH, ACTION = 2, 9, 12, 3


@pytest.fixture
def make(make_config):
    """`make(settings…)`: a transformer in float64, all parameters random."""

    def build(*settings):
        config = make_config("sequence=transformer", "world_model.width=16", "sequence.heads=2", *settings)
        torch.manual_seed(0)
        model = make_sequence(config.sequence, config.attention, STOCH, ACTION).double()
        assert isinstance(model, Transformer)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
        return model

    return build


def inputs(seed=0):
    generator = torch.Generator().manual_seed(seed)
    stoch, action = (
        torch.randn(BATCH, STEPS, n, dtype=torch.float64, generator=generator) for n in (STOCH, ACTION)
    )
    is_first = torch.zeros(BATCH, STEPS, dtype=torch.float64)
    is_first[:, 0] = 1.0
    is_first[1, 5] = 1.0
    return stoch, action, is_first


def hidden(model, stoch, action, is_first):
    return model.observe(stoch, action, is_first, model.initial(len(stoch)))[0]


@pytest.mark.parametrize("attention", ["softmax", "coherent", "sampled"])
def test_steps_beyond_the_window_have_no_influence(make, attention):
    window = 4
    model = make(f"attention={attention}", "sequence.layers=1", f"sequence.window={window}")
    stoch, action, is_first = inputs()
    changed = stoch.clone()
    changed[:, 0] += 1.0
    torch.manual_seed(1)  # for `sampled`
    before = hidden(model, stoch, action, is_first)
    torch.manual_seed(1)
    after = hidden(model, changed, action, is_first)
    different = (before != after).any(-1)  # (B, T); what led to a first step counts as nothing
    assert not different.any()
    changed = stoch.clone()
    changed[:, 1] += 1.0
    torch.manual_seed(1)
    different = (before != hidden(model, changed, action, is_first)).any(-1)
    assert not different[:, 1 + window :].any()
    assert different[:, 1].all()
    if attention != "sampled":  # which may not draw it
        assert different[:, 1 : 1 + window].all()


def test_curriculum_goes_from_softmax_to_the_kind(make):
    schedule = ("attention.curriculum.start=10", "attention.curriculum.length=10")
    mixed = make("attention=coherent", *schedule)
    plain = {name: make(f"attention={name}") for name in ("softmax", "coherent")}
    state = mixed.state_dict()
    for name, model in plain.items():
        part = "exact" if name == "softmax" else "approximate"
        own = {key.replace("attention.", f"attention.{part}."): key for key in model.state_dict()}
        model.load_state_dict({key: state[mixed_key] for mixed_key, key in own.items()})
    outputs = {name: hidden(model, *inputs()) for name, model in plain.items()}
    for update, mix in ((0, 0.0), (10, 0.0), (15, 0.5), (20, 1.0), (1000, 1.0)):
        mixed.schedule(update)
        layer = mixed.layers()[0].attention
        assert isinstance(layer, MixedAttention)
        assert layer.mix == pytest.approx(mix)
        if mix in (0.0, 1.0):
            assert_close(hidden(mixed, *inputs()), outputs["coherent" if mix else "softmax"])
    mixed.schedule(15)
    other = make("attention=coherent", *schedule)
    other.load_state_dict(mixed.state_dict())
    assert other.layers()[0].attention.mix == pytest.approx(0.5)  # a checkpoint holds it


def test_noise_is_for_learning_only(make):
    noisy, clean = make("attention=coherent", "attention.noise=0.5"), make("attention=coherent")
    assert not torch.equal(hidden(noisy, *inputs()), hidden(clean, *inputs()))
    with torch.no_grad():
        assert torch.equal(hidden(noisy, *inputs()), hidden(clean, *inputs()))


@pytest.mark.parametrize("attention", ["softmax", "coherent", "born", "sampled"])
def test_look_inside(make, attention):
    model = make(f"attention={attention}", "sequence.layers=2", "sequence.window=4")
    hidden(model, *inputs()).square().sum().backward()
    stoch, action, is_first = inputs()
    later = torch.cat([stoch[:, 1:], stoch[:, :1]], 1)  # z_t, as `observe` takes z_{t−1}
    views = model.inspect(later, later, action, is_first)
    assert len(views) == 2
    for view in views:
        assert view.weights.shape == (BATCH, 2, STEPS, STEPS)
        assert_close(view.weights.sum(-1), torch.ones(BATCH, 2, STEPS, dtype=torch.float64))
        assert not view.weights.triu(1).any()
        assert not view.weights[1, :, 5:, :5].any()  # the second episode of row 1
        if attention != "born":
            assert not view.weights[0, :, 8, :5].any()  # beyond the window
        for name, values in view.numbers.items():
            assert values.shape == (2,), name
            assert values.isfinite().all(), name
        assert (view.numbers["gradient_norm"] > 0).all()
        assert (view.numbers["effective_keys"] >= 1.0 - 1e-9).all()
    expected = {"coherent": "photons", "born": "memory_steps", "sampled": "predicted_error"}
    assert attention == "softmax" or expected[attention] in views[0].numbers


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ("sequence=transformer", "world_model.posterior=coupled"),
            "needs a recurrent model, sequence=gru or",
        ),
        (("sequence=transformer", "sequence.head=7"), "must be even"),
        (("sequence=transformer", "sequence.blocks=2"), "unknown key sequence.blocks"),
        (("sequence=transformer", "attention=born", "attention.floor=0"), "at least 0.001"),
        (("attention=coherent", "attention.noise=2"), "at most 1"),
        (("attention=softmax", "attention.noise=0.1"), "unknown key attention.noise"),
    ],
)
def test_wrong_settings_get_one_line(make_config, settings, message):
    with pytest.raises(ConfigError, match=message) as error:
        make_config(*settings)
    assert "\n" not in str(error.value)

"""Entries of every kind: what is encoded, predicted and paid for, each for itself and together."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from qdreamer.configs.schema import ConfigError
from qdreamer.envs.entries import Binary, Categorical, Image, Mask, Text, Vector
from qdreamer.worldmodel.model import Batch, WorldModel
from qdreamer.worldmodel.networks.binary import Bits
from qdreamer.worldmodel.networks.discrete import Classes, OneHots
from qdreamer.worldmodel.networks.entry import NETWORKS
from qdreamer.worldmodel.networks.observations import Encoders

B, T, ACTION = 3, 4, 5
SPECS = {
    "position": Vector(3),
    "map": Image(7, 9, 2),
    "inventory/tools": Categorical((3, 2)),
    "flags": Binary(4),
    "mission": Text(16),
    "action_mask": Mask(ACTION),
}


def double(values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.fixture(scope="module")
def config(make_config):
    return make_config(
        *("world_model.units=8", "world_model.deter=16", "world_model.hidden=8", "world_model.stoch=3"),
        *("world_model.classes=4", "world_model.bins=21", "world_model.image.depth=2"),
    )


@pytest.fixture
def make(config):
    def make(specs, **changes):
        torch.manual_seed(0)
        settings = replace(config.world_model, **changes)
        return WorldModel(settings, config.sequence, config.attention, specs, ACTION)

    return make


def observation(specs, seed=0):
    random = np.random.default_rng(seed)
    found = {}
    for name, spec in specs.items():
        shape = (B, T, *spec.shape)
        if isinstance(spec, Vector):
            values = random.normal(size=shape)
        elif isinstance(spec, Categorical):
            values = random.integers(0, spec.sizes, shape)
        else:
            values = random.integers(0, 256 if isinstance(spec, Image) else 2, shape)
        found[name] = torch.from_numpy(values.astype(spec.dtype))
    return found


def batch(model, specs, seed=0):
    generator = torch.Generator().manual_seed(seed)
    zeros = torch.zeros(B, T)
    return Batch(
        observation=observation(specs, seed),
        previous_action=torch.randn(B, T, ACTION, generator=generator),
        reward=zeros, is_first=zeros.clone(), is_last=zeros, is_terminal=zeros,
        weight=torch.ones(B), carry=model.rssm.initial(B),
    )  # fmt: skip


def losses(model, data):
    return model.loss(data, model.rssm.noise(B, T, generator=torch.Generator().manual_seed(1)))[0]


# --- distributions


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_classes_of_several_variables(dtype):
    logits = torch.log(double([[1, 2, 3, 4, 1, 3], [4, 3, 2, 1, 1, 1]])) - 5.0
    output = Classes(logits, (4, 2))
    expected = double([[0.1, 0.2, 0.3, 0.4, 0.25, 0.75], [0.4, 0.3, 0.2, 0.1, 0.5, 0.5]])
    assert_close(output.pred(), expected)
    hot = OneHots((4, 2)).double()(torch.tensor([[2, 0], [3, 1]], dtype=dtype))
    assert_close(hot, double([[0, 0, 1, 0, 1, 0], [0, 0, 0, 1, 0, 1]]))
    assert_close(output.loss(hot), double([-math.log(0.3 * 0.25), -math.log(0.1 * 0.5)]))


def test_bits_are_independent():
    probs = double([0.2, 0.5, 0.9])
    output = Bits(torch.logit(probs))
    assert_close(output.pred(), probs)
    assert_close(output.loss(double([1, 0, 1])), -torch.log(double(0.2 * 0.5 * 0.9)))


# --- together


@pytest.mark.parametrize("standardize", [True, False])
def test_predictions_are_in_the_units_of_their_targets(config, standardize):
    """A decoder that predicts a scaled observation exactly says the observation itself."""
    settings = replace(config.world_model, standardize=standardize)
    for name, raw in observation(SPECS).items():
        normalizer = NETWORKS[type(SPECS[name])].normalizer(SPECS[name], settings)
        normalizer.update(raw, lambda rows: rows)
        assert_close(normalizer.invert(normalizer(raw)), normalizer.target(raw), rtol=1e-4, atol=1e-4)


def test_every_kind_of_spec_has_networks(config):
    """Encoders see scaled observations, decoders predict them, in the shapes that the losses compare."""
    for name, spec in SPECS.items():
        parts = NETWORKS[type(spec)]
        normalizer = parts.normalizer(spec, config.world_model)
        raw = observation({name: spec})[name]
        normalizer.update(raw, lambda rows: rows)
        scaled = normalizer(raw)
        encoder = parts.encoder(spec, config.world_model)
        if encoder is not None:
            assert encoder(scaled).shape == (B, T, encoder.width)
        output = parts.decoder(spec, config.world_model, 6)(torch.randn(B, T, 6))
        assert output.loss(scaled).shape == (B, T)
        assert normalizer.invert(output.pred()).shape == normalizer.target(raw).shape
        assert normalizer.deviation().shape in ((), scaled.shape[2:])


def test_each_entry_has_its_loss_and_its_scale(make, config):
    scales = config.world_model.loss_scales
    model = make(SPECS, entry_scales={"flags": 3.0, "map": 0.5})
    named = [f"observation/{name}" for name in SPECS]
    assert list(model.loss_scales) == [*named, *[name for name in scales if name != "observation"]]
    assert list(losses(model, batch(model, SPECS))) == list(model.loss_scales)
    weights = {name: model.loss_scales[f"observation/{name}"] / scales["observation"] for name in SPECS}
    assert weights == dict.fromkeys(SPECS, 1.0) | {"flags": 3.0, "map": 0.5}
    assert make(SPECS).loss_scales["observation/map"] == 0.1 * scales["observation"]  # the images' own
    with pytest.raises(ConfigError, match=r"entry_scales\.maps names no entry .* position, map"):
        make(SPECS, entry_scales={"maps": 1.0})


def test_without_a_decoder_an_image_is_not_predicted_but_learned_from(make, config):
    """Its encoder learns by what features need to agree with the embedding, which itself does not move."""
    image = replace(config.world_model.image, objective="redundancy")
    model = make(SPECS, image=image)
    found = losses(model, batch(model, SPECS))
    assert "map" not in model.predict(torch.randn(2, model.features))
    assert found["observation/map"].shape == (B, T)
    assert model.loss_scales["observation/map"] == pytest.approx(0.05)
    with torch.no_grad():
        data = batch(model, SPECS)
        embedding = model.encoder.embed(model.obs_normalizer.scale(data.observation))["map"]
    head = model.decoder.of("map")
    assert head(torch.randn(B, T, model.features)).projection.shape == embedding.shape
    (grad,) = torch.autograd.grad(
        head(torch.randn(B, T, model.features)).loss(embedding.detach()).mean(), [head.out.weight]
    )
    assert grad.any()
    found["observation/map"].mean().backward()
    first = model.encoder.parts[model.encoder.names.index("map")]
    assert any(p.grad.any() for p in first.parameters())  # by way of the latents


def test_a_bare_entry_is_the_observation(make):
    model = make({"observation": Vector(3)})
    assert "observation" in losses(model, batch(model, {"observation": Vector(3)}))
    assert model.rssm.posterior.from_embed.weight.shape == (8, 8)


@pytest.mark.parametrize("name", SPECS)
def test_every_entry_but_the_mask_reaches_the_latents(make, name):
    model = make(SPECS)
    for module in model.modules():
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight)
    one, two = batch(model, SPECS), batch(model, SPECS)
    two.observation[name] = observation(SPECS, seed=7)[name]
    noise = model.rssm.noise(B, T, generator=torch.Generator().manual_seed(1))
    first, second = (model.loss(data, noise)[1].posterior for data in (one, two))
    assert torch.equal(first, second) == (name == "action_mask")


def test_a_mask_is_encoded_where_it_is_wanted(config):
    for observed in (False, True):
        names = Encoders({"a": Vector(2), "action_mask": Mask(3, observed)}, config.world_model).names
        assert ("action_mask" in names) == observed


def test_masks_are_predicted_for_imagination(make):
    model = make(SPECS)
    features = torch.randn(6, model.features)
    head = model.decoder.of("action_mask")
    nn.init.zeros_(head.out.weight)
    with torch.no_grad():
        head.out.bias.copy_(torch.tensor([3.0, -3.0, 1.0, -1.0, 0.1]))
    assert_close(model.predict_mask(features), torch.tensor([True, False, True, False, True]).expand(6, -1))
    assert make({"observation": Vector(3)}).predict_mask(features) is None


@pytest.mark.parametrize("name", SPECS)
def test_gradients_of_an_entry_reach_its_encoder_and_decoder(make, name):
    model = make(SPECS)
    losses(model, batch(model, SPECS))[f"observation/{name}"].mean().backward()
    for other in SPECS:
        touched = any(p.grad is not None and p.grad.any() for p in model.decoder.of(other).parameters())
        assert touched == (other == name)
    if name in model.encoder.names:
        part = model.encoder.parts[model.encoder.names.index(name)]
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in part.parameters())


def test_first_sequences_of_a_batch(make):
    model = make(SPECS)
    whole = batch(model, SPECS)
    few = whole.first(2)
    assert few.reward.shape == (2, T) and len(few.carry.stoch) == 2
    for name, values in few.observation.items():
        assert torch.equal(values, whole.observation[name][:2])

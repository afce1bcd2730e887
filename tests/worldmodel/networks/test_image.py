"""Images: scale, sizes, what encoder and decoder see and make, and the objective without a decoder."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from qdreamer.envs.entries import Image
from qdreamer.worldmodel.networks.image import (
    Agreement,
    Brightness,
    EmbeddingHead,
    ImageConfig,
    ImageEncoder,
    ImageHead,
    sides,
)

CONFIG = ImageConfig(
    depth=4, kernel=4, objective="pixels", redundancy=5e-4, scale={"pixels": 1.0, "redundancy": 1.0}
)
SIZES = [(5, 5, 5), (7, 7, 3), (10, 10, 20), (9, 14, 1), (64, 64, 3), (96, 96, 4), (84, 13, 2)]


def images(height, width, channels, batch=2, time=3, seed=0):
    random = np.random.default_rng(seed)
    return torch.from_numpy(random.integers(0, 256, (batch, time, height, width, channels)).astype(np.uint8))


@pytest.mark.parametrize(
    ("size", "path"),
    [
        ((64, 64), [64, 32, 16, 8, 4]),
        ((96, 96), [96, 48, 24, 12, 6]),
        ((10, 10), [10, 5]),
        ((7, 7), [7, 4]),
        ((5, 5), [5, 3]),
    ],
)
def test_sides_are_halved_to_about_four(size, path):
    assert sides(*size) == [(side, side) for side in path]


@pytest.mark.parametrize("size", SIZES)
def test_images_of_any_size_and_channels(size):
    torch.manual_seed(0)
    spec, scaled = Image(*size), Brightness(size[2])(images(*size))
    encoder, decoder = ImageEncoder(spec, CONFIG), ImageHead(spec, 11, CONFIG)
    assert encoder(scaled).shape == (2, 3, encoder.width)
    output = decoder(torch.randn(2, 3, 11))
    assert output.pred().shape == scaled.shape
    squared = (output.pred() - scaled).square()
    assert_close(output.loss(scaled), squared.flatten(2).sum(-1))
    assert (output.pred() - 0.5).abs().mean() < 0.1  # it begins as grey


@pytest.mark.parametrize("size", SIZES)
def test_every_pixel_is_seen_and_made(size):
    torch.manual_seed(0)
    spec = Image(*size)
    scaled = torch.rand(1, 1, *size, requires_grad=True)
    encoder, decoder = ImageEncoder(spec, CONFIG), ImageHead(spec, 11, CONFIG)
    embedding = encoder(scaled)
    (grad,) = torch.autograd.grad((embedding * torch.randn_like(embedding)).sum(), scaled)
    assert grad.ne(0).float().mean() > 0.99
    one, two = decoder(torch.randn(2, 11)).pred()
    assert one.ne(two).all()


def test_pixels_stand_where_they_belong():
    """A decoder can learn an image that is no other image mirrored, turned or shifted."""
    torch.manual_seed(0)
    target = torch.zeros(1, 1, 9, 14, 2)
    target[..., 1, 3, 0] = target[..., 7, 12, 1] = target[..., 0, :4, 1] = 1.0
    decoder, features = ImageHead(Image(9, 14, 2), 4, CONFIG), torch.ones(1, 1, 4)
    optimizer = torch.optim.Adam(decoder.parameters(), 1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        decoder(features).loss(target).sum().backward()
        optimizer.step()
    assert (decoder(features).pred() - target).abs().max() < 0.2


def test_frames_do_not_see_each_other():
    torch.manual_seed(0)
    encoder, scaled = ImageEncoder(Image(10, 10, 2), CONFIG), torch.rand(2, 3, 10, 10, 2)
    changed = scaled.clone()
    changed[1, 2] = 0.0
    alike = encoder(scaled).eq(encoder(changed)).all(-1)
    assert alike.sum() == 5 and not alike[1, 2]


def test_a_channel_is_divided_by_its_largest_value():
    brightness = Brightness(3)
    first = torch.zeros(2, 3, 5, 5, 3, dtype=torch.uint8)
    first[0, -1, 2, 2] = torch.tensor([10, 255, 0])
    brightness.update(first, lambda rows: rows)
    assert_close(brightness(torch.tensor([5, 51, 1], dtype=torch.uint8)), torch.tensor([0.5, 0.2, 1.0]))
    brightness.update(torch.zeros_like(first), lambda rows: rows)
    assert_close(brightness.largest, torch.tensor([10.0, 255.0, 1.0]))  # never less


def test_a_channel_that_gets_bright_somewhere_is_scaled_before_it_is_learned_from():
    """Inside of a sequence, at one pixel: divided by what it was before, it would be 250."""
    brightness, frames = Brightness(2), torch.zeros(3, 4, 5, 5, 2, dtype=torch.uint8)
    frames[1, 2, 3, 4, 1] = 250
    brightness.update(frames, lambda rows: rows)
    assert brightness(frames).max() == 1.0
    assert_close(brightness.largest, torch.tensor([1.0, 250.0]))


# --- without a decoder


def test_agreement_against_numpy():
    random = np.random.default_rng(0)
    one, two = random.normal(size=(2, 40, 5))
    two = 0.5 * one + two
    correlation = np.corrcoef(one.T, two.T)[:5, 5:]
    own = np.diag(correlation)
    expected = ((1 - own) ** 2).sum() + 0.01 * ((correlation**2).sum() - (own**2).sum())
    a, b = (torch.from_numpy(x).view(4, 10, 5) for x in (one, two))
    loss = Agreement(a, 0.01).loss(b)
    assert loss.shape == (4, 10)
    assert_close(loss, torch.full((4, 10), expected, dtype=torch.float64), rtol=1e-4, atol=1e-4)


def test_a_projection_comes_to_agree_with_its_target():
    torch.manual_seed(0)
    features = torch.randn(1, 200, 6)
    target = torch.tanh(features @ torch.randn(6, 4))
    head = EmbeddingHead(6, 4, 5e-4)
    optimizer = torch.optim.Adam(head.parameters(), 1e-2)
    before = head(features).loss(target).mean().item()
    for _ in range(200):
        optimizer.zero_grad()
        head(features).loss(target).mean().backward()
        optimizer.step()
    assert head(features).loss(target).mean().item() < 0.3 * before

"""Gradient checkpointing, and factors on gradients: the same losses, other costs."""

import pytest
import torch

from benchmarks.allocations import peak_bytes
from qdreamer.agents.training.training import make_dreamer
from qdreamer.envs.entries import Image, Vector
from qdreamer.envs.factory import describe
from qdreamer.worldmodel.model import Batch
from qdreamer.worldmodel.networks.layers import scale_gradient

SMALL = ("agent=classical", "world_model.units=16", "world_model.bins=31")
IMAGES, VECTORS = {"camera": Image(32, 32, 3)}, {"observation": Vector(4)}


def agent_of(make_config, specs, *words):
    torch.manual_seed(0)
    config = make_config(*SMALL, *words)
    return make_dreamer(config, specs, describe(config.env).action).double()


def batch_of(agent, rows, steps):
    generator = torch.Generator().manual_seed(0)
    dtype = next(agent.parameters()).dtype
    zero, first = (torch.zeros(rows, steps, dtype=dtype) for _ in range(2))
    first[:, 0] = 1.0
    entries = {}
    for name, spec in agent.observation.items():
        if hasattr(spec, "height"):
            shape = rows, steps, spec.height, spec.width, spec.channels
            entries[name] = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        else:
            entries[name] = torch.randn(rows, steps, spec.size, generator=generator, dtype=dtype)
    action = torch.zeros(rows, steps, agent.action.size, dtype=dtype)
    reward = torch.randn(rows, steps, generator=generator, dtype=dtype)
    carry = agent.world_model.rssm.initial(rows)
    return Batch(entries, action, reward, first, zero, zero, torch.ones(rows, dtype=dtype), carry)


def gradients(agent, batch):
    model = agent.world_model
    noise = model.rssm.noise(*batch.reward.shape, generator=torch.Generator().manual_seed(1))
    losses, _ = model.loss(batch, noise)
    total = torch.stack([losses[name].mean() * scale for name, scale in model.loss_scales.items()]).sum()
    agent.zero_grad(set_to_none=True)
    total.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("specs", [IMAGES, VECTORS], ids=["images", "vectors"])
def test_gradients_are_the_same(make_config, specs):
    found = []
    for checkpointing in ("false", "true"):
        agent = agent_of(make_config, specs, f"world_model.checkpointing={checkpointing}")
        found.append(gradients(agent, batch_of(agent, 2, 8)))
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(
            found[1][name], gradient, rtol=1e-6, atol=1e-6 * float(gradient.abs().max())
        )


def test_images_take_less_memory(make_config):
    """T = 64: at least 30 % less at the worst moment; measured 75 %."""
    peaks = []
    for checkpointing in ("false", "true"):
        agent = agent_of(make_config, IMAGES, f"world_model.checkpointing={checkpointing}").float()
        batch = batch_of(agent, 3, 64)
        peaks.append(peak_bytes(lambda agent=agent, batch=batch: gradients(agent, batch)))
    assert peaks[1] < 0.7 * peaks[0]


def test_scaled_gradients_leave_values_to_the_bit():
    x = torch.randn(100, requires_grad=True)
    y = scale_gradient(x, 0.3)
    assert torch.equal(y, x)
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    torch.testing.assert_close(gradient, 0.6 * x)


@pytest.mark.parametrize("name", ["reward", "continue", "observation"])
def test_a_prediction_that_only_looks_on(make_config, name):
    """With a factor of 0 its own head learns as before, and nothing before it feels its error."""
    part = {"reward": "reward", "continue": "continues", "observation": "decoder"}[name]
    found = []
    for words in ((), (f"world_model.gradients.{name}=0",)):
        agent = agent_of(make_config, VECTORS, *words)
        torch.nn.init.normal_(agent.world_model.reward.out.weight, std=0.1)  # it starts at zero
        found.append(gradients(agent, batch_of(agent, 2, 8)))
    own = {key for key in found[0] if key.startswith(f"{part}.")}
    assert own
    assert all(torch.equal(found[0][key], found[1][key]) for key in own)
    encoder = [key for key in found[0] if key.startswith("encoder.")]
    assert any(not torch.equal(found[0][key], found[1][key]) for key in encoder)

"""torch.compile takes whole modules with kernels in them: it follows the references, never C."""

import pytest
import torch

from qdreamer import native
from qdreamer.envs.entries import Vector
from qdreamer.worldmodel.model import WorldModel
from qdreamer.worldmodel.networks.heads import TwoHotHead
from qdreamer.worldmodel.networks.layers import MLP

pytestmark = pytest.mark.usefixtures("compiled")


@pytest.fixture(params=[True, False], ids=["kernels", "references"])
def kernels(request):
    native.use(request.param)
    yield
    native.use(False)


def equal(function, parameters):
    """Values and gradients of a function, compiled and not; fails where the graph would break."""
    torch.compiler.reset()
    results = []
    for run in (function, torch.compile(function, fullgraph=True, backend="eager")):
        y = run()
        results.append((y, *torch.autograd.grad(y.square().sum(), parameters)))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


def test_a_stack_of_layers(kernels):
    torch.manual_seed(0)
    module, x = MLP(5, 8, 2), torch.randn(3, 4, 5)
    equal(lambda: module(x), list(module.parameters()))


def test_two_hot_scalars(kernels):
    torch.manual_seed(0)
    head, x, target = TwoHotHead(5, 8, 1, bins=11), torch.randn(3, 5), torch.randn(3)
    equal(lambda: head(x).loss(target) + head(x).pred(), list(head.body.parameters()))


@pytest.mark.parametrize(
    "settings",
    [
        ["world_model.posterior=coupled"],
        ["world_model.posterior=decoupled"],
        ["sequence=gru_attention", "attention=softmax", "sequence.head=4"],
        ["sequence=gru_attention", "attention=coherent", "sequence.head=4"],
    ],
)
def test_filtering_and_imagining(make_config, settings):
    sizes = [f"world_model.{name}=8" for name in ("units", "deter", "core", "memory", "hidden")]
    config = make_config("agent=classical", *sizes, *settings)
    torch.manual_seed(0)
    model = WorldModel(config.world_model, config.sequence, config.attention, {"observation": Vector(4)}, 2)
    rssm, embed, action, is_first = model.rssm, torch.randn(2, 2, 8), torch.randn(2, 2, 2), torch.zeros(2, 2)
    carry, noise = rssm.initial(2), torch.rand(2, 3, rssm.stoch)
    native.use(True)

    def run():
        trajectory = rssm.observe(embed, action, is_first, carry, noise[:, :2])
        observed = torch.cat([trajectory.features.flatten(), trajectory.prior.flatten()])
        if rssm.sequence.memory.width:  # its imagination keeps keys in place, without gradients
            return observed
        imagined = rssm.imagine(action[:, 0], rssm.last(trajectory), noise[:, 2])[0]
        return torch.cat([observed, imagined.flatten()])

    equal(run, list(rssm.sequence.parameters()))

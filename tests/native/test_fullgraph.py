"""torch.compile takes whole modules with kernels in them: it follows the references, never C."""

import pytest
import torch

from qdreamer import native
from qdreamer.worldmodel.networks.layers import MLP

pytestmark = pytest.mark.usefixtures("compiled")


@pytest.fixture(params=[True, False], ids=["kernels", "references"])
def kernels(request):
    native.use(request.param)
    yield
    native.use(False)


def equal(module, x):
    """Values and gradients of a module, compiled and not; fails where the graph would break."""
    torch.compiler.reset()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    results = []
    for function in (module, compiled):
        y = function(x)
        results.append((y, *torch.autograd.grad(y.square().sum(), list(module.parameters()))))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


def test_a_stack_of_layers(kernels):
    torch.manual_seed(0)
    equal(MLP(5, 8, 2), torch.randn(3, 4, 5))

"""Any module with weights that are made."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from qdreamer.worldmodel.networks.heads import TwoHotHead
from qdreamer.worldmodel.networks.layers import MLP, MLPHead
from qdreamer.worldmodel.weights.generated import effective, generate
from qdreamer.worldmodel.weights.hashed import Hashed
from qdreamer.worldmodel.weights.quantum_train import QuantumTrain


def quantum_train(count):
    return QuantumTrain(count, blocks=2, mapping=(4,))


def policy():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def test_a_module_of_torch_learns_through_its_generator():
    module = policy()
    shapes = [p.shape for p in module.parameters()]
    generated = generate(module, quantum_train, every_forward=True)
    assert [w.shape for w in effective(module)] == shapes
    assert generated.count == 58
    parameters = list(module.parameters())
    assert sum(p.numel() for p in parameters) == generated.generator.parameter_count
    optimizer = torch.optim.Adam(parameters, 0.02)
    x = torch.randn(64, 4)
    target = torch.stack([x[:, 0], -x[:, 1]], 1)
    losses = []
    for _ in range(60):
        loss = (module(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]


def test_gradients_are_those_of_the_weights_carried_on():
    module, plain = policy(), policy()
    generated = generate(module, quantum_train, every_forward=True)
    x = torch.randn(5, 4)
    module(x).square().sum().backward()
    found = [p.grad.clone() for p in module.parameters()]
    with torch.no_grad():
        for p, w in zip(plain.parameters(), effective(module), strict=True):
            p.copy_(w)
    plain(x).square().sum().backward()
    slopes = torch.cat([p.grad.flatten() for p in plain.parameters()])
    gains = generated.gain.repeat_interleave(torch.tensor([p.numel() for p in plain.parameters()]))
    expected = torch.autograd.grad(generated.generator(), list(module.parameters()), slopes * gains)
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_scaled_weights_start_as_large_as_in_other_networks_and_keep_constants():
    torch.manual_seed(0)
    module = MLPHead(256, 64, 2, 10, scale=0.01)
    out = module.out.weight.detach().clone()
    generated = generate(module, lambda count: Hashed(count, 500))
    assert float(module.body[0].weight.std()) == pytest.approx(256**-0.5, rel=0.15)
    assert_close(module.body[1].scale, torch.ones(64))
    assert_close(module.body[0].bias, torch.zeros(64))
    assert_close(module.out.weight, out)  # an actor starts undecided, and moves as fast as others
    with torch.no_grad():
        generated.generator.values.mul_(2.0)
    generated.refresh()
    assert float((module.out.weight - out).detach().std()) == pytest.approx(64**-0.5, rel=0.15)


def test_outputs_that_start_at_zero_still_do():
    torch.manual_seed(0)
    head = TwoHotHead(16, 8, 1)
    generate(head, lambda count: Hashed(count, 100))
    assert float(head(torch.randn(5, 16)).pred().abs().max()) < 1e-3


def test_as_published_weights_are_what_the_generator_makes():
    module = policy()
    generated = generate(module, quantum_train, scaled=False)
    flat = torch.cat([w.flatten() for w in effective(module)])
    assert torch.equal(flat, generated.generator())


def test_state_deepcopy_and_another_type():
    module, other = policy(), policy()
    generate(module, quantum_train)
    torch.manual_seed(5)
    generate(other, quantum_train)
    x = torch.randn(3, 4)
    assert not torch.equal(module(x), other(x))
    other.load_state_dict(module.state_dict())
    assert torch.equal(module(x), other(x))
    twin = copy.deepcopy(module)
    with torch.no_grad():
        twin.generated.generator.angles.add_(1.0)
    twin.generated.refresh()
    assert not torch.equal(module(x), twin(x))
    assert torch.equal(module(x), other(x))
    module.double()
    assert module[0].weight.dtype == torch.float64
    assert_close(module(x.double()).float(), other(x), rtol=1e-4, atol=1e-5)


def test_tied_weights_stay_tied():
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module[1].weight = module[0].weight
    generated = generate(module, lambda count: Hashed(count, 5))
    assert generated.count == 9 + 3 + 3
    assert module[1].weight is module[0].weight


def test_weights_can_be_made_once_only_and_of_something():
    module = policy()
    generate(module, quantum_train)
    with pytest.raises(ValueError, match="made already"):
        generate(module, quantum_train)
    with pytest.raises(ValueError, match="no parameters"):
        generate(nn.Tanh(), quantum_train)


def test_effective_weights_of_a_plain_module_are_its_parameters():
    module = MLP(3, 4, 1)
    assert all(a is b for a, b in zip(effective(module), module.parameters(), strict=True))

"""The hybrid optimizer around any of torch's, for a loss that is a closure."""

import copy

import pytest
import torch
from torch import nn

import qdreamer


def problem(seed: int = 0) -> tuple[nn.Sequential, torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
    x = torch.randn(64, 6)
    return net, x, x.square().sum(-1, keepdim=True)


def loss(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (net(x) - y).square().mean()


def test_it_finds_steps_that_are_no_worse() -> None:
    """Adam with a far too small rate: multipliers above 1 pay, and are found and taken."""
    net, x, y = problem()
    plain = copy.deepcopy(net)
    optimizer = qdreamer.HybridOptimizer(torch.optim.Adam(net.parameters(), lr=1e-3), blocks=net, every=2)
    base = torch.optim.Adam(plain.parameters(), lr=1e-3)
    for _ in range(40):
        optimizer.step(lambda: loss(net, x, y))
        base.zero_grad()
        loss(plain, x, y).backward()
        base.step()
    figures = optimizer.metrics()
    assert figures["optimizer/searches"] == 20
    assert figures["optimizer/decrease_taken"] >= figures["optimizer/decrease_base"]
    assert loss(net, x, y) < loss(plain, x, y)


def test_between_searches_it_is_the_base_to_the_bit() -> None:
    net, x, y = problem()
    plain = copy.deepcopy(net)
    optimizer = qdreamer.HybridOptimizer(torch.optim.Adam(net.parameters()), blocks=net, every=1000)
    base = torch.optim.Adam(plain.parameters())
    for _ in range(3):
        found = optimizer.step(lambda: loss(net, x, y))
        base.zero_grad()
        expected = loss(plain, x, y)
        expected.backward()
        base.step()
        assert found == expected.item()
    assert all(map(torch.equal, net.parameters(), plain.parameters()))


def test_blocks_by_name_and_a_check_on_other_data() -> None:
    """A check that every move makes worse refuses what is found."""
    net, x, y = problem()
    blocks = {"first": net[0].parameters(), "others": [*net[2].parameters(), *net[4].parameters()]}
    optimizer = qdreamer.HybridOptimizer(
        torch.optim.SGD(net.parameters(), lr=1e-3), blocks, every=1, solver="exact"
    )
    start = [p.detach().clone() for p in net.parameters()]

    def away() -> torch.Tensor:
        return torch.stack(
            [(p - q).square().sum() for p, q in zip(net.parameters(), start, strict=True)]
        ).sum()

    optimizer.step(lambda: loss(net, x, y), check=away)
    figures = optimizer.metrics()
    assert figures["optimizer/accepted"] == 0
    assert {name for name in figures if "multiplier" in name} == {
        "optimizer/multiplier/first", "optimizer/multiplier/others"
    }  # fmt: skip


def test_wrong_words() -> None:
    net, *_ = problem()
    base = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="did you mean qaoa"):
        qdreamer.HybridOptimizer(base, net, solver="qoaa")
    with pytest.raises(ValueError, match="blocks must be disjoint"):
        qdreamer.HybridOptimizer(base, {"stranger": nn.Linear(2, 2).parameters()})

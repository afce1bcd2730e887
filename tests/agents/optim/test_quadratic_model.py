"""Levels, the quadratic model of a loss, and its Ising form."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from qdreamer.agents.optim.parameter_groups import PARTITIONS, balanced, by_module
from qdreamer.agents.optim.quadratic_model import (
    Levels,
    Quadratic,
    RunningCurvature,
    curvature_rows,
    off_diagonal,
    slopes,
)
from qdreamer.quantum.qaoa.ising import all_bits, energy
from qdreamer.worldmodel.networks.categorical import frozen_sample, sample_straight_through


def measure(loss, parameters, block, step, epsilon):
    """The whole model at the present weights."""
    of = (parameters, block, step)
    linear = slopes(loss, *of)
    rows = curvature_rows(loss, linear, *of, epsilon, range(int(block.max()) + 1))
    return Quadratic(linear, 0.5 * (rows + rows.t()))


LEVELS = [[0.0, 1.0], [0.5, 1.5], [-1.0, 1.0], [0.0, 0.5, 1.0, 1.5], [1.5, 1.0, 0.5, 0.0]]


@pytest.mark.parametrize("values", LEVELS)
def test_bits_reach_every_level_once(values):
    levels = Levels.of(values)
    reached = levels.multipliers(all_bits(levels.bits)).squeeze(-1)
    assert sorted(reached.tolist()) == pytest.approx(sorted(values))


@pytest.mark.parametrize("values", [[1.0], [1.0, 1.0], [0.0, 1.0, 2.0], [0.0, 0.5, 1.0, 2.0]])
def test_levels_that_no_bits_can_reach_are_refused(values):
    with pytest.raises(ValueError, match="levels="):
        Levels.of(values)


@given(st.sampled_from(LEVELS), st.integers(1, 4), st.integers(0, 10_000))
def test_the_ising_problem_is_the_model_on_all_bits(values, blocks, seed):
    source = torch.Generator().manual_seed(seed)
    half = torch.randn(blocks, blocks, dtype=torch.float64, generator=source)
    model = Quadratic(torch.randn(blocks, dtype=torch.float64, generator=source), half + half.t())
    levels = Levels.of(values)
    bits = all_bits(blocks * levels.bits)
    torch.testing.assert_close(energy(model.ising(levels), bits), model(levels.multipliers(bits)))


class Latent(nn.Module):
    """A small world with drawn latents, of plain operations: double backward goes through it."""

    def __init__(self):
        super().__init__()
        self.encoder, self.posterior = nn.Linear(3, 5), nn.Linear(5, 8)
        self.recur, self.decoder = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x, noise, target=None):
        probs = torch.softmax(self.posterior(torch.tanh(self.encoder(x))).view(-1, 2, 4), -1)
        z = sample_straight_through(probs, noise).flatten(-2)
        prior = torch.softmax(self.recur(z).view(-1, 2, 4), -1)
        target = probs.detach() if target is None else target
        kl = (target * (target.log() - prior.log())).sum((-2, -1))
        return ((self.decoder(z) - x).square().sum(-1) + kl).mean(), z, probs


@pytest.fixture
def world():
    torch.manual_seed(0)
    model = Latent().double()
    x, noise = torch.randn(40, 3).double(), torch.rand(40, 2).double()
    with torch.no_grad():
        _, z, probs = model(x, noise)
    frozen = frozen_sample(z, probs)
    parameters = list(model.parameters())
    step = [0.1 * torch.randn_like(p) for p in parameters]
    block = torch.arange(4).repeat_interleave(2)
    return model, x, noise, parameters, step, block, lambda: model(x, frozen, probs)[0]


def test_held_draws_keep_value_and_straight_through_gradient(world):
    model, x, noise, parameters, _, _, loss = world
    drawn = model(x, noise)[0]
    torch.testing.assert_close(loss(), drawn, rtol=1e-13, atol=0)
    for a, b in zip(
        torch.autograd.grad(loss(), parameters), torch.autograd.grad(drawn, parameters), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-13)


def test_the_model_is_that_of_hessian_vector_products(world):
    _, _, _, parameters, step, block, loss = world
    before = [p.detach().clone() for p in parameters]
    model = measure(loss, parameters, block, step, 1e-5)
    assert all(torch.equal(p, b) for p, b in zip(parameters, before, strict=True))
    gradients = torch.autograd.grad(loss(), parameters, create_graph=True)
    directions = [
        [d if b == m else torch.zeros_like(d) for d, b in zip(step, block, strict=True)] for m in range(4)
    ]

    def dots(values, m):
        return sum((a * b).sum() for a, b in zip(values, directions[m], strict=True))

    linear = torch.stack([dots(gradients, m) for m in range(4)])
    rows = []
    for m in range(4):
        products = torch.autograd.grad(linear[m], parameters, retain_graph=True, allow_unused=True)
        products = [
            torch.zeros_like(p) if v is None else v for v, p in zip(products, parameters, strict=True)
        ]
        rows.append(torch.stack([dots(products, k) for k in range(4)]))
    exact = torch.stack(rows).detach()
    torch.testing.assert_close(exact, exact.t(), rtol=1e-10, atol=1e-13)  # it has a Hessian
    torch.testing.assert_close(model.linear, linear.detach(), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(model.curvature, exact, rtol=0, atol=1e-4 * float(exact.abs().max()))
    assert float((exact - exact.diagonal().diag()).abs().max()) > 1e-3 * float(exact.abs().max())


def test_with_free_draws_differences_see_jumps(world):
    """Why draws are held: with the noise alone fixed, curvature grows without bounds as ε shrinks."""
    model, x, noise, parameters, step, block, loss = world

    def error(objective, epsilon):
        difference = measure(objective, parameters, block, step, epsilon).curvature
        exact = measure(loss, parameters, block, step, 1e-5).curvature
        return float((difference - exact).abs().max() / exact.abs().max())

    assert error(loss, 0.1) < 0.2
    assert error(lambda: model(x, noise)[0], 0.1) > 5 * error(loss, 0.1)


def test_a_quadratic_is_met_exactly_at_any_length():
    source = torch.Generator().manual_seed(0)
    half = torch.randn(6, 6, dtype=torch.float64, generator=source)
    hessian, x = half + half.t(), nn.Parameter(torch.randn(6, dtype=torch.float64, generator=source))
    y = nn.Parameter(torch.randn((), dtype=torch.float64, generator=source))

    def loss():
        return 0.5 * x @ hessian @ x + y * x.sum()

    step = [torch.randn(6, dtype=torch.float64, generator=source), torch.tensor(0.3, dtype=torch.float64)]
    models = [measure(loss, [x, y], torch.tensor([0, 1]), step, e) for e in (1e-3, 1.0, 10.0)]
    here = loss().item()
    for model in models:
        torch.testing.assert_close(model.curvature, models[1].curvature, rtol=1e-8, atol=1e-8)
        for s in ([1.0, 1.0], [0.5, -2.0], [0.0, 1.5]):
            with torch.no_grad():
                x += s[0] * step[0]
                y += s[1] * step[1]
                there = loss().item()
                x -= s[0] * step[0]
                y -= s[1] * step[1]
            assert model(torch.tensor(s).double()).item() == pytest.approx(there - here, rel=1e-7, abs=1e-9)


def test_the_world_models_curvature_is_that_of_its_held_loss(make_config):
    """In float64, against second differences of the loss itself: gradients by hand take no part."""
    from qdreamer.agents.optim.local_objective import frozen_loss
    from qdreamer.agents.training.training import make_agent
    from qdreamer.worldmodel.model import Batch

    config = make_config(
        *("world_model.units=8", "world_model.deter=8", "world_model.hidden=8", "world_model.stoch=3"),
        *("world_model.classes=4", "world_model.free_nats=0.0"),
    )
    model = make_agent(config).double().world_model
    torch.manual_seed(0)
    for p in model.parameters():  # away from outputs that begin at 0
        p.data.add_(0.1 * torch.randn_like(p))
    rows, steps = 3, 5
    first = torch.zeros(rows, steps).double()
    first[1, 2] = 1.0
    batch = Batch(
        {"observation": torch.randn(rows, steps, 4).double()}, torch.randn(rows, steps, 2).double(),
        torch.randn(rows, steps).double(), first, torch.zeros_like(first), torch.zeros_like(first),
        torch.tensor([0.5, 1.0, 2.0]).double(), model.rssm.initial(rows),
    )  # fmt: skip
    noise = model.rssm.noise(rows, steps, generator=torch.Generator().manual_seed(0))
    losses, trajectory = model.loss(batch, noise)
    scales = model.loss_scales
    total = sum((losses[k] * batch.weight[:, None]).mean() * scale for k, scale in scales.items())
    objective = frozen_loss(model, batch, trajectory)
    parameters = list(model.parameters())
    for a, b in zip(
        torch.autograd.grad(objective(), parameters), torch.autograd.grad(total, parameters), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-11)
    torch.testing.assert_close(objective(), total, rtol=1e-12, atol=0)
    blocks = by_module(model, 4)
    parameters = [p for block in blocks for p in block.parameters]
    block = torch.arange(len(blocks)).repeat_interleave(torch.tensor([len(b.parameters) for b in blocks]))
    step = [0.05 * torch.randn_like(p) for p in parameters]
    found = measure(objective, parameters, block, step, 1e-5)

    @torch.no_grad()
    def value(s):
        before = [p.clone() for p in parameters]
        for p, d, b in zip(parameters, step, block.tolist(), strict=True):
            p += s[b] * d
        out = objective().item()
        for p, b in zip(parameters, before, strict=True):
            p.copy_(b)
        return out

    source = torch.Generator().manual_seed(1)
    for _ in range(4):
        s = torch.randn(len(blocks), generator=source, dtype=torch.float64)
        h = 1e-3
        up, here, down = value(h * s), value(0 * s), value(-h * s)
        assert (up - down) / (2 * h) == pytest.approx(float(s @ found.linear), rel=1e-4)
        second = (up - 2 * here + down) / h**2
        assert second == pytest.approx(float(s @ found.curvature @ s), rel=1e-3)


# Blocks


def tree():
    return nn.ModuleDict(
        {
            "a": nn.Linear(2, 2),
            "b": nn.Sequential(
                nn.Linear(10, 10), nn.Sequential(nn.Linear(20, 20), nn.ReLU(), nn.Linear(3, 3))
            ),
            "c": nn.Linear(1, 1),
        }
    )


@pytest.mark.parametrize("kind", ["module", "balanced"])
@pytest.mark.parametrize("count", range(1, 9))
def test_blocks_hold_every_parameter_once(kind, count):
    module = tree()
    blocks = PARTITIONS[kind](module, count)
    assert len(blocks) == count if kind == "balanced" else 1 <= len(blocks) <= count
    held_ones = [id(p) for block in blocks for p in block.parameters]
    assert sorted(held_ones) == sorted(id(p) for p in module.parameters())
    assert len({block.name for block in blocks}) == len(blocks)


def test_the_largest_module_is_split_first():
    assert [block.name for block in by_module(tree(), 3)] == ["a", "b", "c"]
    assert [block.name for block in by_module(tree(), 4)] == ["a", "b.0", "b.1", "c"]
    assert [block.name for block in by_module(tree(), 5)] == ["a", "b.0", "b.1.0", "b.1.2", "c"]
    assert [block.name for block in by_module(tree(), 2)] == ["a", "b+c"]  # the smallest neighbours


@given(st.lists(st.integers(1, 30), min_size=1, max_size=9), st.integers(1, 9))
def test_no_cut_is_more_even_than_balanced(sizes, count):
    module = nn.ParameterList(nn.Parameter(torch.zeros(size)) for size in sizes)
    if count > len(sizes):
        with pytest.raises(ValueError, match="at most"):
            balanced(module, count)
        return
    from itertools import combinations

    best = min(
        max(sum(sizes[a:b]) for a, b in zip((0, *cut), (*cut, len(sizes)), strict=True))
        for cut in combinations(range(1, len(sizes)), count - 1)
    )
    assert max(block.size for block in balanced(module, count)) == best


def symmetric(n, seed=0):
    half = torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return half + half.t()


def searched(running, along, lengths):
    """What a search measures of a curvature along directions, and all of it, for steps of these lengths."""
    whole, chosen = along * lengths[:, None] * lengths, running.turn(lengths)
    return running.update(chosen, whole[chosen], lengths), whole


def test_a_few_rows_in_turn_come_to_the_whole_curvature():
    """Steps change in length from search to search, the curvature along them does not; then it does."""
    first, second = symmetric(5), symmetric(5, seed=1)
    running = RunningCurvature(5, rows=2)
    lengths = torch.rand(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.1
    assert running.turn(lengths[0]) == [0, 1, 2, 3, 4]
    torch.testing.assert_close(*searched(running, first, lengths[0]))
    torch.testing.assert_close(*searched(running, first, lengths[1]))  # two rows anew, the rest kept
    assert running.turn(lengths[0]) == [2, 3]
    for scale in lengths[1:]:
        found, whole = searched(running, second, scale)
    torch.testing.assert_close(found, whole)
    assert not torch.allclose(*searched(running, first, lengths[0]))  # three blocks are still of the second


def test_a_pair_of_blocks_has_the_mean_of_its_two_measurements():
    running = RunningCurvature(2)
    found = running.update([0, 1], torch.tensor([[1.0, 2.0], [4.0, 3.0]]).double(), torch.ones(2).double())
    assert found.tolist() == [[1.0, 3.0], [3.0, 3.0]]


def test_a_block_that_waits_is_measured_when_it_first_moves():
    running, whole, ones = RunningCurvature(3, rows=1), symmetric(3), torch.ones(3).double()
    waits = torch.tensor([1.0, 0.0, 2.0]).double()
    assert running.turn(waits) == [0, 2]
    found, expected = searched(running, whole, waits)
    torch.testing.assert_close(found, expected)
    assert running.turn(ones) == [1]
    torch.testing.assert_close(*searched(running, whole, ones))
    torch.testing.assert_close(*searched(running, whole, waits))  # its rows are kept while it waits again
    torch.testing.assert_close(*searched(running, whole, ones))
    assert running.turn(torch.zeros(3)) == []
    assert searched(running, whole, torch.zeros(3).double())[0].tolist() == [[0.0] * 3] * 3


def test_running_curvature_resumes():
    whole, ones = symmetric(4), torch.ones(4).double()
    running, resumed = RunningCurvature(4, 1), RunningCurvature(4, 1)
    searched(running, whole, ones)
    searched(running, whole, ones)
    resumed.load_state_dict(running.state_dict())
    assert resumed.turn(ones) == running.turn(ones) == [1]
    other = symmetric(4, seed=1)
    torch.testing.assert_close(searched(resumed, other, ones)[0], searched(running, other, ones)[0])


def test_the_off_diagonal_share():
    assert off_diagonal(torch.eye(3).double()) == 0.0
    assert off_diagonal(torch.zeros(3, 3).double()) == 0.0
    assert off_diagonal(torch.tensor([[0.0, 2.0], [2.0, 0.0]]).double()) == 1.0
    assert off_diagonal(torch.ones(4, 4).double()) == pytest.approx(0.75)

"""LaProp and adaptive gradient clipping against NumPy float64, as danijar/dreamerv3 chains them:
clip_by_agc → scale_by_rms → scale_by_momentum → learning rate."""

import copy
import io

import numpy as np
import pytest
import torch
from torch import nn

from qdreamer import native
from qdreamer.agents.behaviour import ema_update
from qdreamer.agents.optim.laprop import LaProp
from qdreamer.native.laprop import clipped

SHAPES = ((3, 4), (5,), (2, 2, 3), ())


def double(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# Adaptive gradient clipping


def test_agc_against_numpy():
    parameters = [size * double(*shape) for shape, size in zip(SHAPES, (1.0, 10.0, 1e-6, 0.0), strict=True)]
    gradients = [size * double(*shape, seed=1) for shape, size in zip(SHAPES, (1, 1e-3, 1, 1), strict=True)]
    before = [g.numpy().copy() for g in gradients]
    after = clipped(parameters, gradients, 0.3, 1e-3)
    shorter = []
    for p, g, was in zip(parameters, after, before, strict=True):
        length = np.sqrt((was**2).sum())
        upper = 0.3 * max(1e-3, np.sqrt((p.numpy() ** 2).sum()))
        np.testing.assert_allclose(g.numpy(), was / max(1.0, length / upper), rtol=1e-12)
        shorter.append(bool(length > upper))
    assert shorter == [True, False, True, True]


def test_agc_by_hand():
    parameters = [torch.tensor([6.0, 8.0]), torch.zeros(2)]  # norms 10 and 0
    gradients = [torch.tensor([0.0, -12.0]), torch.tensor([3.0, 4.0])]
    after = clipped(parameters, gradients, 0.5, 0.1)
    torch.testing.assert_close(after[0], torch.tensor([0.0, -5.0]))
    torch.testing.assert_close(after[1], torch.tensor([0.03, 0.04]))  # to 0.5·0.1


def test_agc_leaves_small_gradients_untouched():
    parameters, gradients = [torch.ones(4), torch.ones(4)], [torch.full((4,), 0.29), torch.zeros(4)]
    after = clipped(parameters, gradients, 0.3, 1e-3)
    assert all(torch.equal(g, a) for g, a in zip(gradients, after, strict=True))


# LaProp


class NumpyLaProp:
    """The chain in float64, one tensor."""

    def __init__(self, value, lr, betas, eps, agc, pmin, warmup):
        self.value = value.copy()
        self.lr, self.betas, self.eps, self.agc, self.pmin, self.warmup = lr, betas, eps, agc, pmin, warmup
        self.nu, self.mu, self.count = np.zeros_like(value), np.zeros_like(value), 0

    def step(self, update):
        self.count += 1
        beta1, beta2 = self.betas
        if self.agc:
            upper = self.agc * max(self.pmin, np.sqrt((self.value**2).sum()))
            update = update / max(1.0, np.sqrt((update**2).sum()) / upper)
        self.nu = beta2 * self.nu + (1 - beta2) * update**2
        update = update / (np.sqrt(self.nu / (1 - beta2**self.count)) + self.eps)
        self.mu = beta1 * self.mu + (1 - beta1) * update
        update = self.mu / (1 - beta1**self.count)
        rate = self.lr * min(1.0, self.count / self.warmup) if self.warmup else self.lr
        self.value = self.value - rate * update


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"warmup": 0},
        {"agc": 0.0},
        {"eps": 0.1, "betas": (0.5, 0.99)},
        {"betas": (0.0, 0.9)},
    ],
)
def test_fifty_steps_against_numpy(options):
    settings = {"lr": 0.01, "betas": (0.9, 0.999), "eps": 1e-20, "agc": 0.3, "agc_pmin": 1e-3, "warmup": 20}
    settings |= options
    parameters = [double(*shape).requires_grad_() for shape in SHAPES]
    reference = [
        NumpyLaProp(p.detach().numpy(), **{k.replace("agc_", ""): v for k, v in settings.items()})
        for p in parameters
    ]
    optimizer = LaProp(parameters, **settings)
    random = np.random.default_rng(0)
    for _ in range(50):
        for p, ref in zip(parameters, reference, strict=True):
            gradient = 10.0 ** random.uniform(-4, 2) * random.normal(size=p.shape)
            p.grad = torch.as_tensor(gradient, dtype=torch.float64)
            ref.step(np.asarray(gradient))
        optimizer.step()
        for p, ref in zip(parameters, reference, strict=True):
            np.testing.assert_allclose(p.detach().numpy(), ref.value, rtol=1e-11, atol=1e-13)


def test_first_steps_by_hand():
    """After bias correction a constant gradient is normalised to its sign."""
    p = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    optimizer = LaProp([p], lr=0.1, agc=0.0, warmup=4)
    expected = p.detach().clone()
    for warm in (0.25, 0.5, 0.75, 1.0, 1.0):
        p.grad = torch.tensor([3e-7, -5e4], dtype=torch.float64)
        optimizer.step()
        expected -= 0.1 * warm * torch.tensor([1.0, -1.0], dtype=torch.float64)
        torch.testing.assert_close(p.detach(), expected, rtol=1e-12, atol=0)


def test_parameters_without_or_with_zero_gradient_stay():
    with_none, with_zero, moving = (torch.ones(3, requires_grad=True) for _ in range(3))
    optimizer = LaProp([with_none, with_zero, moving], lr=0.1, warmup=0)
    for _ in range(3):
        with_zero.grad, moving.grad = torch.zeros(3), torch.ones(3)
        optimizer.step()
    assert torch.equal(with_none, torch.ones(3))
    assert torch.equal(with_zero, torch.ones(3))
    assert (moving < 1.0).all()


def test_state_dict_round_trip_continues_identically():
    def run(optimizer, parameters, steps):
        for seed in steps:
            for i, p in enumerate(parameters):
                p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(100 * seed + i))
            optimizer.step()

    parameters = [torch.randn(shape).requires_grad_() for shape in SHAPES]
    optimizer = LaProp(parameters, lr=0.01, warmup=15)
    run(optimizer, parameters, range(10))
    copies = [p.detach().clone().requires_grad_() for p in parameters]
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    resumed, fresh = LaProp(copies, lr=0.5, warmup=1), copy.deepcopy(copies)
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    run(optimizer, parameters, range(10, 20))
    run(resumed, copies, range(10, 20))
    assert all(torch.equal(p, q) for p, q in zip(parameters, copies, strict=True))
    # Without the state the same steps lead elsewhere.
    run(LaProp(fresh, lr=0.01, warmup=15), fresh, range(10, 20))
    assert not any(torch.equal(p, q) for p, q in zip(parameters, fresh, strict=True))


def test_minimises_a_quadratic():
    curvature = torch.tensor([100.0, 1.0, 0.01], dtype=torch.float64)
    centre = torch.tensor([3.0, -2.0, 1.0], dtype=torch.float64)
    x = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = LaProp([x], lr=0.01, betas=(0.9, 0.99), warmup=100)

    def closure():
        optimizer.zero_grad()
        loss = 0.5 * (curvature * (x - centre).square()).sum()
        loss.backward()
        return loss

    first = closure().item()
    for _ in range(2000):
        last = optimizer.step(closure).item()
    assert last < 1e-4 * first
    torch.testing.assert_close(x.detach(), centre, rtol=0, atol=0.1)


# In C


@pytest.mark.parametrize("options", [{}, {"agc": 0.0, "warmup": 0}, {"eps": 0.1, "betas": (0.0, 0.9)}])
def test_the_kernel_takes_the_same_steps(compiled, options, threads):
    shapes = (*SHAPES, (70, 90), (1,), (7,))
    optimizers, copies = [], []
    for _ in range(2):
        copies.append([double(*shape).float().requires_grad_() for shape in shapes])
        optimizers.append(LaProp(copies[-1], **{"lr": 0.01, "warmup": 20} | options))
    for step in range(30):
        for k, optimizer in enumerate(optimizers):
            for i, p in enumerate(copies[k][:-1]):  # the last one never has a gradient
                size = 0.0 if i == 5 else 10.0 ** ((step + i) % 7 - 4)
                p.grad = size * double(*p.shape, seed=100 * step + i).float()
            native.use(k == 1)
            optimizer.step()
    native.use(False)
    for plain, fused in zip(*copies, strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-6)
    states = [optimizer.state_dict() for optimizer in optimizers]
    assert states[0]["param_groups"] == states[1]["param_groups"]
    assert states[0]["state"].keys() == states[1]["state"].keys()
    for i, state in states[0]["state"].items():
        for name, value in state.items():
            scale = max(1e-6, float(value.abs().max()))
            torch.testing.assert_close(states[1]["state"][i][name], value, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("in_c", [True, False])
def test_a_step_leaves_gradients_as_they_are(compiled, in_c):
    parameters = [double(*shape).float().requires_grad_() for shape in SHAPES]
    for p in parameters:
        p.grad = 100.0 * torch.ones_like(p)  # which are clipped
    native.use(in_c)
    LaProp(parameters, lr=0.1, warmup=0).step()
    native.use(False)
    assert all(torch.equal(p.grad, torch.full_like(p, 100.0)) for p in parameters)


def test_another_order_in_memory_is_no_trouble(compiled):
    copies = [double(70, 90).float().requires_grad_() for _ in range(2)]
    for p, in_c in zip(copies, (False, True), strict=True):
        native.use(in_c)
        p.grad = double(90, 70, seed=1).float().t()
        LaProp([p], lr=0.1, warmup=0).step()
    native.use(False)
    torch.testing.assert_close(*copies)


@pytest.mark.parametrize("in_c", [True, False])
def test_what_is_not_a_number_shows(compiled, in_c):
    p, other = torch.ones(5, requires_grad=True), torch.ones(5, requires_grad=True)
    p.grad, other.grad = torch.tensor([0.0, torch.nan, 0.0, 0.0, 1.0]), torch.ones(5)
    native.use(in_c)
    LaProp([p, other], lr=0.1, warmup=0).step()
    native.use(False)
    assert p.isnan().all()  # as clipping a tensor whole has it
    assert other.isfinite().all()


def test_averages_move_towards_the_weights():
    averages, others = nn.Linear(40, 30), nn.Linear(40, 30)
    before = [p.detach().double() for p in averages.parameters()]
    ema_update(averages, others, 0.02)
    for p, was, other in zip(averages.parameters(), before, others.parameters(), strict=True):
        torch.testing.assert_close(p.double(), torch.lerp(was, other.double(), 0.02), rtol=1e-6, atol=1e-7)

"""The hybrid optimizer on problems whose answers are known."""

import copy
import io
import threading
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from qdreamer.agents.optim.direction_search import QueueSearch, SolverSearch
from qdreamer.agents.optim.hybrid_optimizer import HybridOptimizer
from qdreamer.agents.optim.laprop import LaProp
from qdreamer.agents.optim.parameter_groups import ParameterGroup
from qdreamer.agents.optim.quadratic_model import Levels
from qdreamer.quantum.backends.statevector import Statevector
from qdreamer.quantum.circuits.backend import BackendError, Measurement, Usage
from qdreamer.quantum.circuits.sampling import FinishedJob
from qdreamer.quantum.jobs.job_queue import JobQueue, Limits
from qdreamer.quantum.qaoa.controls import Exact
from qdreamer.quantum.qaoa.qaoa import QAOA
from qdreamer.quantum.qaoa.solver import SOLVERS, SolverSetup

HALF = Levels.of([0.5, 1.5])


class Everywhere:
    """A landscape of one loss, the same on all data."""

    def __init__(self, loss: Callable[[], torch.Tensor], fresh: Callable[[], torch.Tensor] | None = None):
        self.loss, self.other = loss, fresh or loss

    def full_batch(self):
        return self.loss

    def sub_batch(self, rows):
        return self.loss if rows < 16 else None

    def fresh(self, rows, seed):
        return self.other().detach(), self.other


def quadratic(n: int = 6, seed: int = 0):
    """Blocks of one number each, and ½xᵀHx with an ill-conditioned rotated H."""
    g = torch.Generator().manual_seed(seed)
    rotation, _ = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=g))
    hessian = rotation @ torch.logspace(-2, 2, n, dtype=torch.float64).diag() @ rotation.t()
    start = torch.randn(n, dtype=torch.float64, generator=g)
    x = [nn.Parameter(value.reshape(1)) for value in start]

    def loss():
        point = torch.cat(x)
        return 0.5 * point @ hessian @ point

    return x, loss, hessian


def blocks_of(parameters):
    return [ParameterGroup(str(k), [p]) for k, p in enumerate(parameters)]


def hybrid(parameters, base=None, search=None, levels=HALF, **options):
    base = base or LaProp(parameters, lr=0.05, warmup=5)
    search = search or SolverSearch(Exact(), 1)
    return HybridOptimizer(base, blocks_of(parameters), search, levels, **{"every": 1, **options})


def backward(loss, optimizer):
    optimizer.zero_grad()
    loss().backward()


def test_a_search_takes_the_best_of_all_multipliers():
    x, loss, hessian = quadratic()
    values = torch.tensor([0.0, 0.5, 1.0, 1.5], dtype=torch.float64)
    every = torch.cartesian_prod(*[values] * 6)  # (4^6, 6)
    optimizer = hybrid(x, levels=Levels.of(values.tolist()))
    for _ in range(4):
        before = torch.cat(x).detach()
        backward(loss, optimizer)
        twins = copy.deepcopy(x)
        twin = LaProp(twins)
        state = copy.deepcopy(optimizer.state_dict())
        twin.load_state_dict({k: v for k, v in state.items() if k != "hybrid"})
        for p, q in zip(x, twins, strict=True):
            q.grad = p.grad.clone()
        optimizer.step(landscape=lambda: Everywhere(loss))
        twin.step()
        points = before + every * (torch.cat(twins).detach() - before)
        least = (0.5 * (points @ hessian) * points).sum(1).min()
        assert loss().item() == pytest.approx(least.item(), rel=1e-9)


def test_predicted_decrease_of_a_quadratic_is_what_happens():
    x, loss, _ = quadratic()
    optimizer = hybrid(x)
    for _ in range(5):
        backward(loss, optimizer)
        optimizer.step(landscape=lambda: Everywhere(loss))
        log = optimizer.metrics()
        assert log["optimizer/predicted_chosen"] == pytest.approx(log["optimizer/decrease_chosen"], rel=1e-8)
        assert log["optimizer/predicted_base"] == pytest.approx(log["optimizer/decrease_base"], rel=1e-8)
        assert log["optimizer/approximation_ratio"] == pytest.approx(1.0)


def test_a_step_that_is_worse_on_fresh_data_is_the_bases_to_the_bit():
    x, loss, _ = quadratic()
    twins = [p.detach().clone().requires_grad_() for p in x]
    optimizer, base = hybrid(x), LaProp(twins, lr=0.05, warmup=5)
    best = torch.zeros(6, dtype=torch.float64)

    def contrary():
        # Fresh data that wants the base's step and nothing else.
        return (torch.cat(x) - best).square().sum()

    for _ in range(5):
        optimizer.zero_grad()
        loss().backward()
        for p, q in zip(x, twins, strict=True):
            q.grad = p.grad.clone()
        base.step()
        best = torch.cat(twins).detach()
        optimizer.step(landscape=lambda: Everywhere(loss, contrary))
        assert all(torch.equal(p, q) for p, q in zip(x, twins, strict=True))
        assert optimizer.metrics()["optimizer/accepted"] == 0.0


def test_a_search_models_the_landscape_and_not_what_else_the_gradients_hold():
    """As in a Dreamer, whose world model also learns from the replayed values."""
    x, loss, _ = quadratic()
    optimizer = hybrid(x, torch.optim.SGD(x, lr=1e-3))
    for _ in range(3):
        optimizer.zero_grad()
        (loss() + 5.0 * torch.cat(x).sum()).backward()
        optimizer.step(landscape=lambda: Everywhere(loss))
        log = optimizer.metrics()
        assert log["optimizer/predicted_base"] == pytest.approx(log["optimizer/decrease_base"], rel=1e-8)


def test_with_two_differences_a_quadratics_search_is_still_exact():
    """Adam's directions of single numbers do not turn, so that kept rows stay true."""
    decreases = []
    for rows, slice in ((None, 16), (2, 16), (2, 4)):
        x, loss, _ = quadratic()
        optimizer = hybrid(x, differences=rows, slice=slice)
        asked = []
        for _ in range(6):
            backward(loss, optimizer)
            calls = [0]

            def counted(calls=calls, loss=loss):
                calls[0] += torch.is_grad_enabled()
                return loss()

            optimizer.step(landscape=partial(Everywhere, counted))
            asked.append(calls[0])
            log = optimizer.metrics()
            assert log["optimizer/predicted_chosen"] == pytest.approx(
                log["optimizer/decrease_chosen"], rel=1e-8
            )
        decreases.append(loss().item())
        more = slice == 4  # a part of the batch takes a gradient of its own
        # The first search measures all.
        assert asked == (
            [7] * 6 if rows is None else [7 + more, 3 + more, 3 + more, 3 + more, 3 + more, 3 + more]
        )
    assert decreases == pytest.approx([decreases[0]] * 3, rel=1e-9)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_keeps_the_bases_step(bad):
    x, loss, _ = quadratic()
    twins = [p.detach().clone().requires_grad_() for p in x]
    optimizer, base = hybrid(x), LaProp(twins, lr=0.05, warmup=5)
    backward(loss, optimizer)
    for p, q in zip(x, twins, strict=True):
        q.grad = p.grad.clone()
    base.step()
    optimizer.step(landscape=lambda: Everywhere(lambda: loss() * bad))
    assert all(torch.equal(p, q) for p, q in zip(x, twins, strict=True))
    assert optimizer.metrics()["optimizer/failed"] == 1.0


@pytest.mark.parametrize(
    "make",
    [lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9), lambda p: torch.optim.Adam(p, lr=0.05), LaProp],
)
def test_without_a_landscape_any_base_goes_its_way(make):
    x, loss, _ = quadratic()
    twins = [p.detach().clone().requires_grad_() for p in x]
    optimizer, base = hybrid(x, make(x)), make(twins)
    for _ in range(20):
        backward(loss, optimizer)
        for p, q in zip(x, twins, strict=True):
            q.grad = p.grad.clone()
        optimizer.step()
        base.step()
    assert all(torch.equal(p, q) for p, q in zip(x, twins, strict=True))


def test_the_loss_on_fresh_data_is_never_above_the_bases():
    torch.manual_seed(0)
    features, targets = torch.randn(64, 5), torch.randn(64, 1)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
    parameters = list(model.parameters())
    optimizer = hybrid(parameters, every=3)
    rows = torch.Generator().manual_seed(0)
    tried = 0
    for _ in range(60):
        pick = torch.randint(0, 64, (2, 16), generator=rows)

        def loss(pick=pick[0]):
            return (model(features[pick]) - targets[pick]).square().mean()

        backward(loss, optimizer)
        optimizer.step(landscape=partial(Everywhere, loss, partial(loss, pick[1])))
        log = optimizer.metrics()
        if log["optimizer/tried"]:
            tried += 1
            assert log["optimizer/decrease_taken"] >= log["optimizer/decrease_base"]
    assert tried == 20


def test_parameters_outside_the_blocks_take_the_bases_step():
    x, loss, _ = quadratic()
    outside = nn.Parameter(torch.ones(3, dtype=torch.float64))
    twin = outside.detach().clone().requires_grad_()
    base, other = LaProp([*x, outside], lr=0.1, warmup=0), LaProp([twin], lr=0.1, warmup=0)
    optimizer = HybridOptimizer(base, blocks_of(x), SolverSearch(Exact(), 1), HALF, every=1)
    for k in range(5):
        backward(loss, optimizer)
        outside.grad = torch.full_like(outside, k - 2.0)
        twin.grad = outside.grad.clone()
        optimizer.step(landscape=lambda: Everywhere(loss))
        other.step()
        assert torch.equal(outside, twin)


def qaoa_search(backend=None, warn=print):
    if backend is None:
        return SolverSearch(QAOA(Statevector(), 3), 256, {"qubits": 6.0})
    return QueueSearch(QAOA(backend, 3), JobQueue(backend, Limits(10.0), warn), 256, patience=5, wait=True)


def test_state_dict_round_trip_continues_identically():
    def run(optimizer, loss, steps):
        for _ in range(steps):
            backward(loss, optimizer)
            optimizer.step(landscape=lambda: Everywhere(loss))

    def fresh(**options):
        x, loss, _ = quadratic(seed=3)
        return x, loss, hybrid(x, search=qaoa_search(), every=3, reuse=True, seed=7, **options)

    x, loss, optimizer = fresh()
    run(optimizer, loss, 10)
    buffer = io.BytesIO()
    torch.save({"weights": [p.data for p in x], "optimizer": optimizer.state_dict()}, buffer)
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    y, other, resumed = fresh()
    for p, value in zip(y, state["weights"], strict=True):
        p.data.copy_(value)
    resumed.load_state_dict(state["optimizer"])
    run(optimizer, loss, 11)
    run(resumed, other, 11)
    assert all(torch.equal(p, q) for p, q in zip(x, y, strict=True))
    mine, theirs = optimizer.metrics(), resumed.metrics()
    assert {k: v for k, v in mine.items() if not k.startswith("time/")} == {
        k: v for k, v in theirs.items() if not k.startswith("time/")
    }


def test_the_bases_own_state_can_be_loaded_and_schedulers_reach_it():
    x, loss, _ = quadratic()
    base = LaProp(x, lr=0.05)
    backward(loss, base)
    base.step()
    optimizer = hybrid(x)
    optimizer.load_state_dict(base.state_dict())
    assert optimizer.base.param_groups[0]["updates"] == 1
    assert optimizer.param_groups is optimizer.base.param_groups
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 0.1)
    assert optimizer.base.param_groups[0]["lr"] == pytest.approx(0.005)


def test_blocks_must_be_the_bases_and_disjoint():
    x, _, _ = quadratic()
    search = SolverSearch(Exact(), 1)
    with pytest.raises(ValueError, match="disjoint"):
        HybridOptimizer(LaProp(x), [*blocks_of(x), ParameterGroup("again", [x[0]])], search, HALF, 1)
    with pytest.raises(ValueError, match="base optimizer's"):
        HybridOptimizer(LaProp(x[:2]), blocks_of(x), search, HALF, 1)


# Jobs that take their time


class Slow:
    """A backend whose jobs end when they are told to."""

    name, in_process, remote = "slow", False, False

    def __init__(self):
        self.release = None
        self.jobs = []

    def submit(self, tasks, shots, seed):
        done = Statevector().submit(tasks, shots, seed)
        self.jobs.append(done)
        return done

    def collect(self, job_id):
        raise BackendError("gone")


class HeldQueue(JobQueue):
    """A queue that keeps what has arrived to itself for a while."""

    open = False

    def poll(self):
        outcomes = []
        while self.open and self.pending and not outcomes:
            outcomes = super().poll()
        return outcomes


def held_search(patience):
    backend = Slow()
    queue = HeldQueue(backend, Limits(60.0), print)
    return backend, queue, QueueSearch(QAOA(backend, 3), queue, 256, patience)


def test_training_goes_on_while_a_job_is_under_way_and_tries_its_result_later():
    x, loss, _ = quadratic()
    twins = [p.detach().clone().requires_grad_() for p in x]
    _, queue, search = held_search(patience=10)
    optimizer, base = hybrid(x, search=search, every=2), LaProp(twins, lr=0.05, warmup=5)
    for _ in range(6):
        backward(loss, optimizer)
        for p, q in zip(x, twins, strict=True):
            q.grad = p.grad.clone()
        optimizer.step(landscape=lambda: Everywhere(loss))
        base.step()
    assert queue.counts.submitted == 1  # one at a time
    assert all(torch.equal(p, q) for p, q in zip(x, twins, strict=True))
    queue.open = True
    backward(loss, optimizer)
    optimizer.step(landscape=lambda: Everywhere(loss))
    log = optimizer.metrics()
    assert (log["optimizer/tried"], log["optimizer/age"], log["optimizer/late"]) == (1.0, 5.0, 0.0)


def test_a_result_that_comes_too_late_is_dropped_and_counted():
    x, loss, _ = quadratic()
    _, queue, search = held_search(patience=3)
    optimizer = hybrid(x, search=search, every=2)
    for k in range(7):
        queue.open = k == 6
        backward(loss, optimizer)
        optimizer.step(landscape=lambda: Everywhere(loss))
    log = optimizer.metrics()
    assert (log["optimizer/late"], log["optimizer/tried"]) == (1.0, 0.0)


class Broken(Slow):
    def __init__(self, how):
        super().__init__()
        self.how = how

    def submit(self, tasks, shots, seed):
        if self.how == "raises":
            raise BackendError("no luck")
        n = tasks[0].circuit().qubits + (1 if self.how == "another size" else 0)
        bits = torch.zeros(1, shots, n, dtype=torch.uint8)
        return FinishedJob(Measurement((bits,), Usage(1, shots), (None,)))


@pytest.mark.parametrize("how", ["raises", "another size"])
def test_a_broken_backend_does_not_stop_training(how):
    x, loss, _ = quadratic()
    warnings = []
    optimizer = hybrid(x, search=qaoa_search(Broken(how), warnings.append))
    first = loss().item()
    for _ in range(8):
        backward(loss, optimizer)
        optimizer.step(landscape=lambda: Everywhere(loss))
    log = optimizer.metrics()
    assert loss().item() < first
    assert len(warnings) == 1
    assert log["optimizer/jobs_failed"] >= 1.0
    assert log["optimizer/tried"] > 0  # the in-process simulator takes over


def test_twenty_qubits_and_three_layers():
    x, loss, _ = quadratic(20)
    optimizer = hybrid(x, search=qaoa_search(), every=2)
    for _ in range(2):
        backward(loss, optimizer)
        optimizer.step(landscape=lambda: Everywhere(loss))
    log = optimizer.metrics()
    assert (log["optimizer/tried"], log["optimizer/shots"]) == (1.0, 256.0)
    assert log["optimizer/decrease_taken"] >= log["optimizer/decrease_base"]


@pytest.mark.parametrize("kind", ["exact", "greedy", "random", "annealing", "scalar"])
def test_every_control_runs_and_none_beats_brute_force(kind, make_config):
    x, loss, _ = quadratic()
    y, other, _ = quadratic()
    solver = SOLVERS[kind].part.make(SolverSetup(Statevector(), make_config().quantum))
    one, best = hybrid(x, search=SolverSearch(solver, 16)), hybrid(y)
    backward(loss, one)
    backward(other, best)
    one.step(landscape=lambda: Everywhere(loss))
    best.step(landscape=lambda: Everywhere(other))
    a, b = one.metrics(), best.metrics()
    assert a["optimizer/predicted_chosen"] <= b["optimizer/predicted_chosen"] + 1e-12
    assert a["optimizer/approximation_ratio"] <= 1.0 + 1e-12
    if kind == "scalar":
        assert len({a[f"optimizer/multiplier/{k}"] for k in range(6)}) == 1


def test_all_processes_decide_alike():
    """Two of them with data of their own that exchange nothing but the means."""
    barrier, given, weights, own = threading.Barrier(2), {}, {}, {}

    def train(k):
        x, loss, _ = quadratic()
        noise = torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(k))

        def average(values):
            given[k] = values
            barrier.wait(10)
            mean = (given[0] + given[1]) / 2
            barrier.wait(10)
            return mean

        optimizer = hybrid(x, average=average, seed=5)
        for _ in range(5):
            backward(loss, optimizer)  # gradients are averaged elsewhere
            optimizer.step(landscape=lambda: Everywhere(lambda: loss() + 3.0 * torch.cat(x) @ noise))
        weights[k], own[k] = torch.cat(x).detach(), given[k]

    threads = [threading.Thread(target=train, args=(k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not torch.equal(own[0], own[1])
    assert torch.equal(weights[0], weights[1])

"""Groups whose gradients differ ten times, update after update, are named."""

import pytest
import torch

from qdreamer.agents.training.imbalance import WINDOW, Imbalance


def fed(ratios, names=("circuit", "rest")):
    monitor = Imbalance(names)
    for ratio in ratios:
        monitor.add([torch.tensor(1.0), torch.tensor(ratio)])
    return monitor


def test_a_planted_imbalance_is_named():
    worst = fed([50.0] * WINDOW).worst()
    assert (worst.larger, worst.smaller, worst.updates) == ("rest", "circuit", WINDOW)
    assert worst.ratio == pytest.approx(50.0, rel=1e-5)
    assert "gradients of rest were 10 times those of circuit or more in 100 of 100" in str(worst)
    other = fed([0.02] * WINDOW).worst()
    assert (other.larger, other.smaller, other.updates) == ("circuit", "rest", WINDOW)


@pytest.mark.parametrize("often", [0, 79, 80, 100])
def test_updates_are_counted(often):
    ratios = [20.0] * often + [9.9] * (WINDOW - often)
    assert fed(ratios).worst().updates == often


def test_the_last_hundred_count_and_nothing_before_them():
    assert fed([50.0] * (WINDOW - 1)).worst() is None
    assert fed([50.0] * 300 + [1.0] * WINDOW).worst().updates == 0


def test_the_worst_of_three_and_a_gradient_of_zero():
    monitor = Imbalance(["a", "b", "c"])
    for _ in range(WINDOW):
        monitor.add([torch.tensor(1.0), torch.tensor(5.0), torch.tensor(0.0)])
    worst = monitor.worst()
    assert (worst.larger, worst.smaller) == ("b", "c")


def test_one_group_alone_is_not_compared_and_a_window_resumes():
    assert fed([], names=("all",)).worst() is None
    first, second = fed([50.0] * 60), Imbalance(["circuit", "rest"])
    second.load_state_dict(first.state_dict())
    for _ in range(40):
        second.add([torch.tensor(1.0), torch.tensor(50.0)])
    assert second.worst().updates == WINDOW

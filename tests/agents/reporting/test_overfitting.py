"""The world model's loss on held-out episodes beside replay's."""

import numpy as np
import pytest
import torch

from qdreamer.agents.interaction.evaluation import EvaluationEpisode
from qdreamer.agents.reporting.overfitting import TIMES, OverfittingMonitor, compared, held_out_loss
from qdreamer.agents.training.training import make_agent
from qdreamer.worldmodel.model import Batch

SMALL = (
    *("agent=classical", "world_model.units=8", "world_model.deter=16", "world_model.hidden=8"),
    *("world_model.stoch=3", "world_model.classes=4"),
)


def episode(steps, seed):
    random = np.random.default_rng(seed)
    rows = random.normal(size=(steps + 1, 4)).astype(np.float32)
    actions = np.eye(2, dtype=np.float32)[random.integers(0, 2, steps)]
    return EvaluationEpisode(0.0, steps, {"observation": rows}, actions)


def test_the_loss_is_that_of_training_on_these_rows(make_config):
    """Of two episodes, the mean over their rows, without those behind the shorter one's end."""
    agent = make_agent(make_config(*SMALL))
    episodes = [episode(9, 0), episode(5, 1)]
    model, total, rows = agent.world_model, 0.0, 0
    noise = model.rssm.noise(2, 10, generator=torch.Generator().manual_seed(0))
    for e, one in enumerate(episodes):
        n = one.length + 1
        zero, first = torch.zeros(1, n), torch.zeros(1, n)
        first[:, 0] = 1.0
        previous = torch.cat([torch.zeros(1, 2), torch.from_numpy(one.actions)])[None]
        entries = {name: torch.from_numpy(values)[None] for name, values in one.observations.items()}
        batch = Batch(entries, previous, zero, first, zero, zero, torch.ones(1), model.rssm.initial(1))
        losses, _ = model.loss(batch, noise[e : e + 1, :n])
        total += sum(float(losses[name].detach().sum()) * model.loss_scales[name] for name in compared(agent))
        rows += n
    assert held_out_loss(agent, episodes) == pytest.approx(total / rows, rel=1e-5)


def test_only_the_beginnings_of_long_episodes_count(make_config):
    agent = make_agent(make_config(*SMALL))
    long = episode(200, 2)
    cut = EvaluationEpisode(
        0.0, 64, {"observation": long.observations["observation"][:65]}, long.actions[:64]
    )
    assert held_out_loss(agent, [long]) == held_out_loss(agent, [cut])


def run(held_out, replay):
    monitor, warned = OverfittingMonitor(), []
    for i, (h, r) in enumerate(zip(held_out, replay, strict=True)):
        monitor.replay = r
        if monitor.evaluated(h):
            warned.append(i)
    return warned


def test_losses_that_part_are_told_once():
    assert run([3.0, 2.0, 1.0, 1.3, 1.5, 1.8, 2.2, 2.6], [3.0, 2.0, 1.0, 0.8, 0.7, 0.6, 0.5, 0.4]) == [
        2 + TIMES
    ]


@pytest.mark.parametrize(
    ("held_out", "replay"),
    [
        ([3, 2, 1.5, 1.2, 1.1, 1.0, 0.9], [3, 2, 1.0, 0.8, 0.7, 0.6, 0.5]),  # both fall
        (
            [1, 1.5, 2, 2.5, 3, 3.5, 4.0],
            [1, 1.2, 1.4, 1.6, 1.8, 2.0, 2.2],
        ),  # new parts of the world: both rise
        ([1, 1.1, 1.19, 1.1, 1.19, 1.1, 1.19], [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4]),  # within noise
        ([1, 1.5, 1.5, 1.1, 1.5, 1.5, 1.1], [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4]),  # not in a row
    ],
)
def test_nothing_is_told_of_losses_that_do_not(held_out, replay):
    assert run(held_out, replay) == []

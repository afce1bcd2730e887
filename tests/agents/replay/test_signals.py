"""What replay goes by, by hand; and how it gets back to the replay."""

import numpy as np
import pytest
import torch

from qdreamer.agents.replay.sampler import Starts
from qdreamer.agents.replay.signals import PriorityInputs, reward_error, td_error
from qdreamer.agents.training.learner import AsyncReplayWriter, diversity
from qdreamer.agents.training.training import make_agent
from qdreamer.worldmodel.model import Batch


def batch_of(reward, is_last, is_terminal):
    rows = torch.tensor(reward)
    none = torch.zeros_like(rows)
    last, terminal = torch.tensor(is_last), torch.tensor(is_terminal)
    return Batch(none, none, rows, none, last, terminal, rows[:, 0], None)  # type: ignore[arg-type]


def test_td_error_by_hand():
    """γ = ½; the second sequence ends between its second and third row."""
    batch = batch_of(
        [[9.0, 1.0, 2.0, 3.0], [9.0, 1.0, 5.0, 3.0]],
        [[0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]],
        [[0.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0]],
    )
    value = torch.tensor([[4.0, 2.0, 6.0], [4.0, 2.0, 6.0]])  # of the last three rows
    evidence = PriorityInputs(None, {}, batch, None, value, horizon=2.0)  # type: ignore[arg-type]
    first = (abs(2.0 + 1.0 - 4.0) + abs(3.0 + 0.0 - 2.0)) / 2
    # Row 1 is the last of its episode: only the step from row 2 to row 3 counts.
    second = abs(3.0 + 3.0 - 2.0)
    assert td_error(evidence).tolist() == pytest.approx([first, second])


def test_reward_error_of_an_untrained_model_is_the_reward(make_config):
    agent = make_agent(make_config("replay=prioritized", "replay.signal=reward"))
    features = torch.randn(2, 3, agent.world_model.features)
    batch = batch_of([[1.0, 2.0, 3.0], [0.0, 0.0, 6.0]], *torch.zeros(2, 2, 3).tolist())
    with torch.no_grad():  # the reward head begins at exactly 0
        error = reward_error(PriorityInputs(agent.world_model, {}, batch, features, None, 1.0))  # type: ignore[arg-type]
    assert error.tolist() == pytest.approx([2.0, 2.0], abs=1e-4)


def test_diversity_is_the_mean_distance_of_the_sequences_middles():
    features = torch.tensor([[[0.0, 0.0], [2.0, 0.0]], [[1.0, 4.0], [1.0, 4.0]], [[4.0, 0.0], [4.0, 0.0]]])
    expected = (4.0 + 3.0 + 5.0) / 3 / 2**0.5
    assert float(diversity(features.mean(1))) == pytest.approx(expected)
    assert float(diversity(features[:1].mean(1))) == 0.0


class Recorder:
    def __init__(self):
        self.calls = []

    def write(self, starts, rows):
        self.calls.append(("write", starts.row.tolist(), {k: v.tolist() for k, v in rows.items()}))

    def update(self, starts, priorities):
        self.calls.append(("update", starts.row.tolist(), priorities.tolist()))


@pytest.mark.parametrize("deferred", [False, True])
def test_replay_writer_comes_at_once_or_with_the_next_update(deferred):
    replay = Recorder()
    replay_writer = AsyncReplayWriter(replay, deferred)
    for number in (1.0, 2.0):
        starts = Starts(np.zeros(1, np.int64), np.array([int(number)]))
        replay_writer.submit(starts, torch.tensor([number]), {"state": torch.tensor([[number]])})
    all_calls = [
        call
        for number in (1.0, 2.0)
        for call in (("write", [number], {"state": [[number]]}), ("update", [number], [number]))
    ]
    assert replay.calls == (all_calls[:2] if deferred else all_calls)
    replay_writer.flush()
    replay_writer.flush()
    assert replay.calls == all_calls

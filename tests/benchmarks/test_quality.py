"""The comparison of world models: equal parameters, a task that asks for memory, honest ratios."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from benchmarks.quality import log_ratio
from benchmarks.quality_data import Stream, recall_data
from benchmarks.quality_models import SETTINGS, build, parameters
from benchmarks.recall import VALUE_BITS, Recall
from qdreamer import native
from qdreamer.envs.actions import ActionSpec
from qdreamer.envs.entries import Vector

OBSERVATION, ACTION = {"observation": Vector(2)}, ActionSpec.discrete(2)


def test_all_kinds_have_as_many_parameters():
    """All but the GRU that is as wide as the one beside a memory."""
    models = {kind: build(kind, OBSERVATION, ACTION, 8, 0) for kind in SETTINGS}
    counts = [parameters(model) for kind, model in models.items() if kind != "gru-narrow"]
    assert max(counts) <= 1.03 * min(counts)
    narrow, memory = (models[kind].world_model.rssm.sequence for kind in ("gru-narrow", "gru-attention"))
    assert narrow.deter == memory.deter


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_elu_linear_observes_as_it_steps(dtype):
    """The reference takes the place of `born` in the transformer, with resets; kernels keep out of it."""
    native.use(dtype == torch.float32)
    close = {"rtol": 1e-9, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-4}
    rssm = build("elu-linear", OBSERVATION, ACTION, 8, 0).world_model.to(dtype).rssm
    sequence = rssm.sequence
    generator = torch.Generator().manual_seed(0)
    stoch = torch.rand(3, 7, rssm.stoch * rssm.classes, generator=generator, dtype=dtype)
    action = torch.rand(3, 7, 2, generator=generator, dtype=dtype)
    is_first = (torch.rand(3, 7, generator=generator) < 0.3).to(dtype)
    h, states = sequence.observe(stoch, action, is_first, sequence.initial(3))
    state, action_embedding = sequence.initial(3), sequence.action_embedding(action, is_first)
    for t in range(7):
        out, state = sequence.step(stoch[:, t], action_embedding[:, t], is_first[:, t], state)
        assert_close(out, h[:, t], **close)
    imagined = sequence.select(states, torch.arange(3), torch.full((3,), 6))
    more = torch.rand(3, 2, generator=generator, dtype=dtype)
    expected, _ = sequence.step(stoch[:, 0], sequence.action_embedding(more, None), None, state)
    found, _ = sequence.step(stoch[:, 0], sequence.action_embedding(more, None), None, imagined)
    assert_close(found, expected, **close)


def test_recall_answers_what_was_written():
    recall = Recall(pairs=5, key_bits=3)
    observations, actions = recall.episode(np.random.default_rng(0))
    assert observations.shape == (recall.rows, recall.observation)
    assert actions.shape == (recall.rows - 1, recall.action)
    written = {tuple(a[:3]): tuple(a[3 : 3 + VALUE_BITS]) for a in actions[:5]}
    assert len(written) == 5
    assert not observations[:6].any()  # nothing is shown before it is asked
    asked = actions[5:]
    assert {tuple(a[:3]) for a in asked} == set(written) and not asked[:, 3:-1].any()
    for action, answer in zip(asked, observations[6:], strict=True):
        assert tuple(answer[:-1]) == written[tuple(action[:3])] and answer[-1] == 1.0


def test_batches_follow_from_the_seed_alone_and_hold_whole_episodes():
    data = recall_data(Recall(), 3, 200, 2)
    one, two = (Stream(data, Recall().rows, 3, whole=True).batch(4, None) for _ in range(2))
    assert_close(one.observation, two.observation)
    assert one.is_first[:, 0].all() and not one.is_first[:, 1:].any()
    assert one.is_last[:, -1].all() and not one.is_terminal.any()
    assert not one.previous_action[:, 0].any() and one.previous_action[:, 1:-1].any(-1).all()


def test_ratio_and_interval():
    """Ratios 2 and 8: logs log 2 and 3·log 2, so 4 with ± t·log 2 (t = 12.706 for one degree of freedom)."""
    middle, low, high = log_ratio([2.0, 8.0], [1.0, 1.0])
    assert middle == pytest.approx(4.0)
    assert math.log(high / middle) == pytest.approx(12.706 * math.log(2.0))
    assert low * high == pytest.approx(16.0)

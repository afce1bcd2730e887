"""Batches that are chosen among more candidates."""

import numpy as np
import pytest
import torch

import qdreamer
from qdreamer.agents.replay.diversity.dpp import Determinantal
from qdreamer.agents.replay.diversity.features import mean_latents
from qdreamer.agents.training.training import Run
from qdreamer.configs.schema import ConfigError

SMALL = (
    *("agent=classical", "world_model.units=8", "world_model.deter=16", "world_model.hidden=8"),
    *("world_model.stoch=3", "world_model.classes=4", "train.batch_size=4", "train.batch_length=4"),
    *("agent.imagination_starts=2", "logging.writers=[jsonl]"),
)
FIELDS = {"x": ((), np.float32), "stoch": ((2,), np.uint8)}


def buffer(rows, sampler="uniform", **settings):
    """Numbers x, most of them with the same latents."""
    replay = qdreamer.Replay(FIELDS, 100, 2, sampler=sampler, **settings)
    random = np.random.default_rng(0)
    for i in range(rows):
        kind = 0 if i % 4 else random.integers(4)
        replay.add([0], {"x": [float(i)], "stoch": [[kind, kind]]})
    return replay


@pytest.mark.parametrize(
    ("sampler", "diverse", "batches"),
    [("uniform", "dpp", 1000), ("prioritized", "dpp", 1000), ("prioritized", "qubo", 200)],
)
def test_weighted_means_over_batches_are_those_of_the_buffer(sampler, diverse, batches):
    settings = {"online": False} if sampler == "uniform" else {"beta": [1.0, 1.0]}
    replay = buffer(60, sampler, diverse=diverse, **settings)
    starts = np.arange(59)
    errors = np.linspace(0.1, 5.0, 59).astype(np.float32)
    if sampler == "prioritized":
        replay.sample(1)
        replay.update(type(replay.sample(1).starts)(np.zeros(59, np.int64), starts), errors)
    odd = replay._data["stoch"][0, :59, 0] > 0  # what diverse batches have more of
    means = []
    for _ in range(batches):
        drawn = replay.sample(8)
        values = np.stack([drawn.rows["x"][:, 1], drawn.rows["stoch"][:, 1, 0] > 0])
        means.append((drawn.weights * values).mean(1))
    error = np.std(means, axis=0) / len(means) ** 0.5
    assert (np.abs(np.mean(means, axis=0) - [starts.mean(), odd.mean()]) < 4.0 * error).all()


def test_batches_hold_more_kinds_than_independent_draws():
    kinds = []
    for diverse in ("none", "dpp"):
        replay = buffer(60, online=False, diverse=diverse)
        kinds.append([len(np.unique(replay.sample(8).rows["stoch"][:, 1, 0])) for _ in range(300)])
    error = (np.var(kinds[0]) / 300 + np.var(kinds[1]) / 300) ** 0.5
    assert np.mean(kinds[1]) - np.mean(kinds[0]) > 4.0 * error


def test_no_candidate_is_taken_twice_and_weights_are_positive():
    stoch = np.random.default_rng(0).integers(0, 4, (24, 3, 2)).astype(np.uint8)
    taken, factors = Determinantal(3, seed=0).select(stoch, np.ones(24, np.bool_), np.ones(24, np.float32), 8)
    assert len(set(taken.tolist())) == 8
    assert (factors > 0.0).all() and np.isfinite(factors).all()
    assert mean_latents(stoch).sum(1) == pytest.approx(2.0)  # of each latent variable 1


@pytest.mark.parametrize("count", [8, 64, 200])
def test_all_alike_is_a_plain_draw(count):
    """However small their determinants are."""
    stoch, known = np.zeros((3 * count, 3, 2), np.uint8), np.ones(3 * count, np.bool_)
    taken, factors = Determinantal(3, seed=0).select(stoch, known, np.ones(3 * count, np.float32), count)
    assert len(set(taken.tolist())) == count
    assert factors == pytest.approx(np.ones(count), rel=1e-4)


def test_what_nobody_has_seen_is_like_nothing_else():
    """Twelve copies and twelve rows without latents: these do not count as copies of each other."""
    stoch, known = np.zeros((24, 3, 2), np.uint8), np.arange(24) < 12
    taken, factors = Determinantal(3, seed=0).select(stoch, known, np.ones(24, np.float32), 8)
    assert (taken >= 12).sum() >= 7
    assert np.isfinite(factors).all()


def test_rows_stop_being_strange_when_they_are_written():
    replay = buffer(60, online=False, diverse="dpp")
    replay.mark_strange()
    assert replay._strange[0, :60].all() and not replay._strange[0, 60:].any()
    drawn = replay.sample(4)
    latents = np.zeros((4, 2, 2), np.uint8)
    replay.write(drawn.starts, {"stoch": latents})
    fresh = ~replay._strange[0, :60]
    rows = np.concatenate([drawn.starts.row, drawn.starts.row + 1])
    assert set(np.flatnonzero(fresh)) == set(rows)
    again = buffer(60, online=False, diverse="dpp")
    again.load_state_dict(replay.state_dict())
    assert np.array_equal(again._strange, replay._strange)


@pytest.mark.parametrize("diverse", ["dpp", "qubo"])
def test_an_agent_learns_from_diverse_batches_and_resumes_exactly(make_config, tmp_path, diverse):
    words = (*SMALL, "replay=prioritized", f"replay.diverse={diverse}", "replay.candidates=4")
    whole, first, second = (Run(make_config(*words), tmp_path) for _ in range(3))
    for run in (whole, first):
        for _ in range(40):
            run.collector.step(random=True)
    for _ in range(4):
        whole.learner.update()
    for _ in range(2):
        first.learner.update()
    second.learner.load_state_dict(first.learner.state_dict())
    second.replay.load_state_dict(first.replay.state_dict())
    for _ in range(2):
        second.learner.update()
    pairs = zip(whole.agent.parameters(), second.agent.parameters(), strict=True)
    assert all(torch.equal(p, q) for p, q in pairs)
    for run in (whole, first, second):
        run.close()


def test_what_cannot_be_is_refused(make_config):
    with pytest.raises(ConfigError, match=r"replay\.online=true would count as replayed"):
        make_config(*SMALL, "replay.diverse=dpp")
    with pytest.raises(ConfigError, match=r"replay\.diverse=dp is not one of .* \(did you mean dpp\?\)"):
        make_config(*SMALL, "replay.diverse=dp")
    large = [word for word in SMALL if "batch_size" not in word]
    with pytest.raises(ConfigError, match=r"replay\.candidates=64 .* are more than 1,024"):
        make_config(
            *large, "train.batch_size=32", "replay=prioritized", "replay.diverse=dpp", "replay.candidates=64"
        )
    with pytest.raises(ConfigError, match="fields need stoch"):
        qdreamer.Replay({"x": ((), np.float32)}, 100, 2, diverse="dpp", online=False)

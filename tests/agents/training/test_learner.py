"""What the learner does between replay and loss."""

import pytest
import torch

from qdreamer.agents.training.training import Run

SMALL = (
    "agent=classical",
    *("world_model.units=8", "world_model.deter=16", "world_model.hidden=8", "world_model.stoch=3"),
    *("world_model.classes=4", "train.batch_size=64", "train.batch_length=8", "env.num_envs=2"),
    *("logging.writers=[jsonl]", "replay.online=false"),
)


@pytest.fixture
def make_learner(make_config, tmp_path):
    """A learner with 60 random steps in its replay buffer, by `train.forget`."""
    runs = []

    def make(forget):
        run = Run(make_config(*SMALL, f"train.forget={forget}"), tmp_path)
        runs.append(run)
        for _ in range(60):
            run.collector.step(random=True)
        return run.learner

    yield make
    for run in runs:
        run.close()


@pytest.mark.parametrize("forget", [0.0, 0.25, 1.0])
def test_share_of_sequences_that_begin_without_memory(make_learner, forget):
    learner = make_learner(forget)
    forgotten = candidates = 0
    for _ in range(40):
        batch = learner.to_batch(learner.replay.sample(64))
        before = batch.is_first.clone()
        after = learner.drop_context(batch).is_first
        assert torch.equal(after[:, 1:], before[:, 1:])
        assert bool((after >= before).all())
        inside = before[:, 0] == 0.0
        candidates += int(inside.sum())
        forgotten += int(after[inside, 0].sum())
    deviation = (forget * (1.0 - forget) / candidates) ** 0.5
    assert candidates > 1000
    assert abs(forgotten / candidates - forget) <= 4.0 * deviation


def test_without_memory_the_context_has_no_effect(make_learner):
    learner = make_learner(1.0)
    model = learner.agent.world_model
    batch = learner.drop_context(learner.to_batch(learner.replay.sample(64)))
    noise = model.rssm.noise(*batch.is_first.shape)
    losses, _ = model.loss(batch, noise)
    batch.carry.state.normal_()
    batch.carry.stoch.normal_()
    again, _ = model.loss(batch, noise)
    assert all(torch.equal(losses[name], again[name]) for name in losses)


@pytest.mark.parametrize("replay", ["replay=prioritized", "replay=uniform"])
def test_errors_of_sequences_are_measured_for_a_sampler_that_uses_them(
    replay, make_config, tmp_path, monkeypatch
):
    """By `replay.signal=model` the error is the scaled world-model loss of each sequence."""
    overrides = [override for override in SMALL if not override.startswith("replay")]
    run = Run(make_config(*overrides, replay), tmp_path)
    for _ in range(60):
        run.collector.step(random=True)
    told, outcomes, loss = [], [], run.agent.loss
    monkeypatch.setattr(run.replay.sampler, "update", lambda starts, errors: told.append(errors))
    monkeypatch.setattr(run.agent, "loss", lambda *a: outcomes.append(loss(*a)) or outcomes[-1])
    run.learner.update()
    run.close()
    if replay == "replay=uniform":
        assert told == []
        return
    scales = run.agent.world_model.loss_scales
    expected = sum(scale * outcomes[0].losses[name].mean(1) for name, scale in scales.items())
    assert told[0].tolist() == pytest.approx(expected.tolist())

"""Evaluation: the same unseen episodes every time; open-loop errors that mean what they say."""

from pathlib import Path

import numpy as np
import pytest

from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.dreamer import Dreamer
from qdreamer.agents.interaction.evaluation import EvaluationEpisode, Evaluator, mean_and_interval
from qdreamer.agents.reporting.openloop import open_loop
from qdreamer.agents.reporting.pictures import gif, open_loop_picture, record_video
from qdreamer.agents.training.training import Run, make_agent
from qdreamer.envs.seeds import evaluation_seed

SMALL = [
    "agent=classical",
    "world_model.units=8",
    "world_model.deter=8",
    "world_model.hidden=8",
    "world_model.stoch=2",
]
ENV = load_config(SMALL).env


@pytest.fixture(scope="module")
def agent() -> Dreamer:
    return make_agent(load_config(SMALL))


@pytest.fixture(scope="module")
def episodes(agent: Dreamer) -> list[EvaluationEpisode]:
    evaluator = Evaluator(ENV, 6, 0, deterministic=True)
    found = evaluator.run(agent, exploration=0.5)
    evaluator.close()
    return found


def test_the_same_episodes_every_time(agent: Dreamer, episodes: list[EvaluationEpisode]) -> None:
    evaluator = Evaluator(ENV, 6, 0, deterministic=True)
    for _ in range(2):
        again = evaluator.run(agent, exploration=0.5)
        assert [e.score for e in again] == [e.score for e in episodes]
        np.testing.assert_array_equal(
            again[3].observations["observation"], episodes[3].observations["observation"]
        )
    evaluator.close()


def test_episodes_replay_in_the_plain_environment(episodes: list[EvaluationEpisode]) -> None:
    import gymnasium

    env = gymnasium.make("CartPole-v1")
    for i, episode in enumerate(episodes):
        observation, _ = env.reset(seed=evaluation_seed(0, i))
        score, done = 0.0, False
        for t, action in enumerate(episode.actions):
            np.testing.assert_array_equal(observation, episode.observations["observation"][t])
            assert not done
            observation, reward, terminal, truncated, _ = env.step(int(action.argmax()))
            score += float(reward)
            done = terminal or truncated
        assert done
        assert score == episode.score == episode.length == episode.steps


def test_evaluation_does_not_disturb_training(tmp_path: Path) -> None:
    small = [*SMALL, "train.batch_length=4", "agent.imagination_starts=2", "logging.writers=[jsonl]"]
    scores = []
    for evaluates in (False, True):
        (tmp_path / str(evaluates)).mkdir()
        run = Run(load_config(small), tmp_path / str(evaluates))
        assert run.observer is not None
        found = []
        for step in range(60):
            found += run.collector.step(random=False)
            if evaluates and step % 20 == 0:
                run.observer.evaluator.run(run.agent)
        scores.append(found)
        run.close()
    assert scores[0] == scores[1]


def test_interval_covers_the_mean_of_a_known_distribution() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        mean, low, high = mean_and_interval(list(random.normal(3.0, 1.0, 30)))
        assert low <= mean <= high
        covered += low <= 3.0 <= high
    assert 0.88 <= covered / 200 <= 0.99  # nominal 0.95; the percentile bootstrap is a little narrow


def test_open_loop_persistence_and_ends(agent: Dreamer) -> None:
    """A straight ramp: persistence errs by exactly (k·slope/deviation)²; nothing after the end counts."""
    steps = np.arange(21, dtype=np.float32)[:, None]
    observations = np.repeat(steps, 4, 1)
    actions = np.tile(np.array([[1.0, 0.0]], np.float32), (20, 1))
    episode = EvaluationEpisode(20.0, 20, {"observation": observations}, actions)
    result = open_loop(agent, [episode], context=5, horizon=10)
    assert result is not None
    variance = steps.var()
    np.testing.assert_allclose(result.persistence_error, np.arange(1, 11) ** 2 / variance, rtol=1e-5)
    true = result.entries["observation"].true
    assert len(true) == 16  # starts at steps 4 … 19
    assert np.isfinite(true).sum() == 4 * sum(min(10, 20 - t) for t in range(4, 20))
    np.testing.assert_array_equal(true[0, :, 0], np.arange(5, 15))


def test_open_loop_needs_long_enough_episodes(agent: Dreamer, episodes: list[EvaluationEpisode]) -> None:
    assert open_loop(agent, episodes, context=10_000, horizon=5) is None


def test_pictures(agent: Dreamer, episodes: list[EvaluationEpisode]) -> None:
    result = open_loop(agent, episodes, 5, 20)
    assert result is not None
    picture = open_loop_picture(result, "title")
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    assert picture.std() > 5.0  # something is drawn
    frames = record_video(agent, ENV, 0, True, 12)
    assert len(frames) >= 8
    data = gif(frames)
    assert data[:6] == b"GIF89a"

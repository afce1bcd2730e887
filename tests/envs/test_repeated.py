"""MountainCar with repeated actions: the same task in longer steps."""

import gymnasium
import pytest

from qdreamer.agents.cli.composition import load_config
from qdreamer.envs.factory import make_raw


def test_a_step_is_twelve_steps_and_the_limit_stays():
    env = make_raw(load_config(["env=MountainCarRepeated"]).env)
    plain = gymnasium.make("MountainCar-v0")
    seen, expected = env.reset(seed=3)[0], plain.reset(seed=3)[0]
    total, ended = 0.0, False
    while not ended:
        assert seen == pytest.approx(expected)
        seen, reward, terminal, truncated, _ = env.step(2)
        for _ in range(12):
            expected, _, plain_terminal, plain_truncated, _ = plain.step(2)
            total += 1.0
            if plain_terminal or plain_truncated:
                break
        assert (terminal, truncated) == (plain_terminal, plain_truncated)
        assert reward == -(total % 12 or 12.0)
        ended = terminal or truncated
    assert (total, truncated) == (200.0, True)


def test_pushing_the_way_it_rolls_solves_it():
    env = make_raw(load_config(["env=MountainCarRepeated"]).env)
    seen, score, ended = env.reset(seed=0)[0], 0.0, False
    while not ended:
        seen, reward, terminal, truncated, _ = env.step(2 if seen[1] >= 0 else 0)
        score, ended = score + reward, terminal or truncated
    assert terminal
    assert -140.0 <= score <= -110.0

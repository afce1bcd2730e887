"""Pink noise has power 1/f, leaves each single action distributed as it was, and is resumed to the bit."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy import stats

from qdreamer.agents.cli.command_line import prepare
from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.cli.effect import check_lengths
from qdreamer.agents.distributed.ranks import SingleProcess
from qdreamer.agents.interaction.acting import ActingLoop
from qdreamer.agents.interaction.pink_noise import PinkNoise
from qdreamer.agents.training.training import Run
from qdreamer.configs.schema import ConfigError
from tests.agents.interaction.test_collector import SMALL

ENVS, STEPS = 400, 1000
PENDULUM = [*SMALL, "env=Pendulum", "env.num_envs=3", "train.pink_noise=true"]


def drawn(kind: str) -> np.ndarray:
    """Noise of one column beside another that is not continuous, (N, steps)."""
    generator = torch.Generator().manual_seed(0)
    pink = PinkNoise([1], ENVS, lambda shape: torch.randn(shape, generator=generator))
    rows = [getattr(pink, kind)(torch.full((ENVS, 2), 7.0)) for _ in range(STEPS)]
    values = torch.stack(rows, 1)
    assert (values[..., 0] == 7.0).all()
    return values[..., 1].numpy()


def test_power_falls_as_one_over_frequency() -> None:
    power = (np.abs(np.fft.rfft(drawn("normal"), axis=1)) ** 2).mean(0)[1:]
    frequency = np.fft.rfftfreq(STEPS)[1:]
    inner = (frequency > 1 / 400) & (frequency < 0.2)
    slope = np.polyfit(np.log(frequency[inner]), np.log(power[inner]), 1)[0]
    assert -1.15 < slope < -0.85  # white noise has 0, Brownian motion −2


@pytest.mark.parametrize(("kind", "law"), [("normal", stats.norm()), ("uniform", stats.uniform(-1.0, 2.0))])
def test_every_single_action_is_distributed_as_without_it(kind: str, law: Any) -> None:
    """From the first step on: the processes begin as they are in the long run."""
    values = drawn(kind)
    for t in (0, 1, 30, STEPS - 1):
        assert stats.kstest(values[:, t], law.cdf).pvalue > 1e-3


def test_a_run_goes_on_to_the_bit(tmp_path: Any) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    runs = [Run(load_config(PENDULUM), tmp_path / name) for name in ("one", "other")]
    for k in range(11):
        runs[0].collector.step(random=k < 6)
    runs[1].agent.load_state_dict(runs[0].agent.state_dict())
    runs[1].replay.load_state_dict(runs[0].replay.state_dict())
    assert runs[1].collector.load_state_dict(runs[0].collector.state_dict())
    for run in runs:
        for k in range(8):
            run.collector.step(random=k % 2 == 0)
    one, other = (run.replay.state_dict()["data"]["action"].numpy() for run in runs)
    np.testing.assert_array_equal(one, other)
    for run in runs:
        run.close()


def test_chosen_and_random_actions_are_alike_for_a_while(tmp_path: Any) -> None:
    """Neighbours in time correlate by the mean of the five processes' e^(−1/τ), white noise by 0."""
    found = {}
    for pink in ("true", "false"):
        (tmp_path / pink).mkdir()
        run = Run(load_config([*PENDULUM, "env.num_envs=16", f"train.pink_noise={pink}"]), tmp_path / pink)
        for random in (True, False):
            before = int(run.replay.state_dict()["added"][0])
            for _ in range(120):
                run.collector.step(random=random)
            actions = run.replay.state_dict()["data"]["action"][:, before + 1 : before + 120, 0].numpy()
            found[pink, random] = np.corrcoef(actions[:, :-1].ravel(), actions[:, 1:].ravel())[0, 1]
        run.close()
    for random in (True, False):
        assert found["true", random] > 0.6
        assert abs(found["false", random]) < 0.1


def test_ranks_draw_side_by_side(tmp_path: Any) -> None:
    run = Run(load_config([*PENDULUM, "env.num_envs=4"]), tmp_path)
    loops = []
    for rank, size in ((0, 1), (0, 2), (1, 2)):
        ranks = SingleProcess()
        ranks.rank, ranks.size = rank, size
        loops.append(ActingLoop(run.agent, 4 // size, 5, pink=True, ranks=ranks))
    for _ in range(3):
        whole, *parts = (loop._choices(loop.count) for loop in loops)
        torch.testing.assert_close(torch.cat(parts), whole, rtol=0.0, atol=0.0)
    run.close()


class Both(gymnasium.Env[Any, Any]):
    """A number and a choice."""

    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Dict(a=spaces.Discrete(3), b=spaces.Box(-1.0, 1.0, (2,), np.float32))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.zeros(2, np.float32), 0.0, False, False, {}


def test_only_numbers_are_pink(tmp_path: Any) -> None:
    gymnasium.register("Both-v0", entry_point=Both)
    run = Run(load_config([*SMALL, "env=gym", "env.id=Both-v0", "train.pink_noise=true"]), tmp_path)
    assert run.agent.action.numbers == [3, 4]
    assert run.agent.actor.normal_draws == [1, 2]
    for k in range(20):
        run.collector.step(random=k < 10)
    actions = run.replay.state_dict()["data"]["action"][0, :20].numpy()
    assert (actions[:, :3].sum(-1) == 1.0).all()
    run.close()
    del gymnasium.registry["Both-v0"]


def test_a_copy_goes_its_own_way(tmp_path: Any) -> None:
    run = Run(load_config(PENDULUM), tmp_path)
    loop = ActingLoop(run.agent, 3, 0, pink=True)
    loop._choices(3)
    copies = loop.clone(), loop.clone()
    expected = [loop._choices(3) for _ in range(4)]
    for copy in copies:
        for values in expected:
            assert torch.equal(copy._choices(3), values)
    run.close()


def test_it_is_refused_where_it_does_nothing() -> None:
    """By the command line, before a folder is made."""
    with pytest.raises(ConfigError, match=r"no action is continuous; use train\.pink_noise=false"):
        prepare(["env=CartPole", "train.pink_noise=true"])
    prepare(["env=Pendulum", "train.pink_noise=true"])


def test_learning_from_fixed_data_is_refused_where_it_was_asked_for_alone() -> None:
    """A preset may have it: then it is of no use, and no fault of the user's."""
    fixed = ["train.collect=false", "replay.initial=somewhere"]
    preset = load_config([*SMALL, "env=MountainCarContinuous", *fixed])
    assert preset.train.pink_noise
    check_lengths(preset, ["train.collect", "replay.initial"])
    with pytest.raises(ConfigError, match="no action is taken"):
        check_lengths(preset, ["train.pink_noise"])

"""A short real learning run: the agent must get far beyond chance, on episodes it never saw."""

from pathlib import Path

import pytest

from qdreamer.agents.cli.command_line import load_config
from qdreamer.agents.cli.evaluate_command import load_agent
from qdreamer.agents.interaction.evaluation import Evaluator
from qdreamer.agents.training.session import run_session
from qdreamer.agents.training.training import make_agent

CHANCE = 22.0  # mean return of uniformly random actions on CartPole-v1


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("agent", "steps"), [("classical", 2000), ("hybrid", 2500)])
def test_cartpole_is_learned(tmp_path: Path, agent: str, steps: int) -> None:
    settings = [f"agent={agent}", f"steps={steps}", f"evaluation.every={steps}", "logging.tensorboard=false"]
    config = load_config(["env=CartPole", *settings])
    assert run_session(config, tmp_path) == 0
    evaluator = Evaluator(config.env, 20, 1, deterministic=True)
    mean = sum(e.score for e in evaluator.run(load_agent(tmp_path, config))) / 20
    untrained = sum(e.score for e in evaluator.run(make_agent(config))) / 20
    evaluator.close()
    assert untrained < 3 * CHANCE
    assert mean > 5 * CHANCE

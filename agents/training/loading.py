"""A trained agent, read from its run's directory."""

from pathlib import Path

import torch

from qdreamer.agents.dreamer import Dreamer
from qdreamer.agents.interaction.evaluation import Evaluator
from qdreamer.agents.interaction.player import Player
from qdreamer.agents.runs import checkpoint
from qdreamer.agents.runs.config import Config
from qdreamer.agents.runs.run_directory import found_again, origin, read_config
from qdreamer.agents.training.training import make_agent
from qdreamer.envs.edge.guard import close
from qdreamer.envs.factory import make_env


def load(directory: str | Path, device: str = "cpu", seed: int | None = None) -> Player:
    """Return the agent of a run, ready to play and to dream.

    Args:
        directory: of the run, as train.py prints it. device: where it computes.
        seed: of its draws; by default evaluate.py's, whose episodes it then plays exactly.

    Raises ConfigError, CheckpointError or EnvError, each of one line, for what cannot be read or made.
    """
    config = read_config(Path(directory))
    with found_again(Path(directory), config):
        named = make_env(config.env)
    interface, spaces = named.interface, (named.env.observation_space, named.env.action_space)
    close(named, config.env.id)
    agent = load_agent(Path(directory), config, device=device)
    own = config.evaluation.seed + 1

    def score(agent: Dreamer, episodes: int) -> float:
        evaluator = Evaluator(config.env, episodes, own, True, config.evaluation.max_steps)
        found = evaluator.run(agent)
        evaluator.close()
        return sum(episode.score for episode in found) / episodes

    return Player(agent, interface, *spaces, own if seed is None else seed, score)


def load_agent(
    directory: Path, config: Config, made: Config | None = None, device: str = "cpu", best: bool = False
) -> Dreamer:
    """Return the agent of a run's checkpoint, `made` by settings that its weights fit.

    best: as it was at its best evaluation. Raises CheckpointError.
    """
    state = checkpoint.load_best(directory) if best else checkpoint.load(directory)
    checkpoint.check_origin(directory, state, origin(config), resume=False)
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay theirs
        agent = make_agent(made or config, device)
    with checkpoint.translate_load_errors(directory):
        agent.load_state_dict(state["learner"]["agent"])
    return agent.eval()

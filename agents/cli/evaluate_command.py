"""python evaluate.py <run directory>: returns over unseen episodes, and a video.

Also on other episodes than those trained on: env.kwargs.asks=40, with sequence.window=128 steps of memory.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import gymnasium

from qdreamer.agents.cli.overrides import KWARGS, check_form, parse
from qdreamer.agents.dreamer import Dreamer
from qdreamer.agents.interaction.evaluation import Evaluator, mean_and_interval
from qdreamer.agents.reporting.pictures import gif, record_video, save_gif
from qdreamer.agents.runs.checkpoint import CheckpointError
from qdreamer.agents.runs.config import Config
from qdreamer.agents.runs.cores import use_threads
from qdreamer.agents.runs.run_directory import found_again, read_config
from qdreamer.agents.training.loading import load_agent
from qdreamer.configs.console import Parser, fail, one_line
from qdreamer.configs.schema import ConfigError, build
from qdreamer.envs.config import EnvConfig
from qdreamer.envs.factory import EnvError, describe
from qdreamer.envs.interface import summary


def main(words: list[str] | None = None) -> None:
    """Run evaluate.py; `words` are those of the command line unless given."""
    parser = Parser("qdreamer evaluate", description=__doc__)
    parser.add_argument("run", type=Path, help="a run directory, as printed at the end of train.py")
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument(
        "--seed",
        type=int,
        help="which set of episodes (default: the one after that of training's own evaluations)",
    )
    parser.add_argument("--stochastic", action="store_true", help="sample actions instead of taking the mode")
    parser.add_argument("--best", action="store_true", help="the policy of the run's best evaluation")
    parser.add_argument("--no-video", action="store_true")
    parser.add_argument(
        "changes",
        nargs="*",
        default=[],  # without one argparse calls it required
        help="what may differ from training: env.kwargs.<key>=…, sequence.window=…",
    )
    arguments = parser.parse_intermixed_args(words)
    if arguments.episodes < 1:
        parser.error("--episodes must be at least 1")
    if arguments.seed is not None and not 0 <= arguments.seed < 2**31:
        parser.error("--seed must be from 0 to 2147483647")
    gymnasium.logger.min_level = gymnasium.logger.ERROR  # training has passed its warnings on
    try:
        config = read_config(arguments.run)
        if arguments.seed is None:
            arguments.seed = config.evaluation.seed + 1
        other = changed(config, arguments.changes)
        use_threads(config.threads)
        made = dataclasses.replace(other, env=config.env)
        with found_again(arguments.run, config):
            agent = load_agent(arguments.run, config, made, best=arguments.best)
            check_spaces(agent, other.env)
            report(agent, other, arguments)
    except (ConfigError, CheckpointError, EnvError, OSError) as error:
        fail(error)
    except KeyboardInterrupt:
        fail("interrupted", 130)


def changed(config: Config, words: list[str]) -> Config:
    """Return a run's config with settings that no weight depends on. Raises ConfigError for others."""
    values = json.loads(json.dumps(dataclasses.asdict(config)))
    for override in map(parse, words):
        key = str(override.key_or_group)
        section, _, name = key.rpartition(".")
        if section != KWARGS and key != "sequence.window":
            raise ConfigError(f"{key} is as it was in training: change {KWARGS}.<key> or sequence.window")
        if override.is_sweep_override():
            raise ConfigError(f"{override.input_line}: one value each; a list is written {key}=[…]")
        check_form(override, sweep=False)
        part = values
        for word in section.split("."):
            part = part[word]
        part[name] = override.value()
    return build(Config, values)


def check_spaces(agent: Dreamer, config: EnvConfig) -> None:
    """Raises ConfigError unless the environment shows and accepts what the agent was made for."""
    found, known = describe(config), (agent.observation, agent.action)
    if (found.observation, found.action) != known:
        words = (summary(*both).replace("\n", "; ") for both in ((found.observation, found.action), known))
        raise ConfigError("with {} there is {}, not {} as in training".format(config.kwargs, *words))


def report(agent: Dreamer, config: Config, arguments: argparse.Namespace) -> None:
    """Run the episodes, print what came out, and write the video."""
    deterministic = config.evaluation.deterministic and not arguments.stochastic
    evaluator = Evaluator(
        config.env, arguments.episodes, arguments.seed, deterministic, config.evaluation.max_steps
    )
    episodes = evaluator.run(agent)
    evaluator.close()
    scores = [episode.score for episode in episodes]
    mean, low, high = mean_and_interval(scores)
    print("returns:", " ".join(f"{score:g}" for score in sorted(scores)))
    print(f"lengths: {min(e.steps for e in episodes)} to {max(e.steps for e in episodes)} steps")
    print(
        f"mean return {mean:.1f} [95 % interval {low:.1f}, {high:.1f}] over {len(scores)} unseen episodes "
        f"of {' '.join([config.env.id, *arguments.changes])} "
        f"(episode set {arguments.seed}, {'mode' if deterministic else 'sampled'} actions"
        f"{', best policy' * arguments.best})"
    )
    if arguments.no_video:
        return
    try:
        frames = record_video(agent, config.env, arguments.seed, deterministic, config.logging.video_frames)
        name = f"evaluation{'_best' * arguments.best}_{arguments.seed}.gif"
        print(f"video: {save_gif(arguments.run / 'videos', name, gif(frames))}")
    except (EnvError, OSError) as error:
        print(f"no video: {one_line(error)}")

"""Data sets for learning without collecting: python -m benchmarks.replay_data cliffwalk|redundant FILE.npz.

`cliffwalk`: every action sequence of the blind cliffwalk once, 4,096 episodes with 8,190 steps, one of them
rewarded. `redundant`: 2,000 rows of whole CartPole episodes of a policy that is half trained (`--run`, a run
directory whose policy earns some 150), then 3 episodes of random play over and over, 18,000 rows.
"""

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

import qdreamer
from qdreamer.agents.runs.checkpoint import CheckpointError
from qdreamer.configs.schema import ConfigError
from qdreamer.envs.tasks.cliffwalk import all_episodes

Columns = dict[str, NDArray[Any]]
HALF_TRAINED, RANDOM, EPISODES = 2_000, 18_000, 3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("which", choices=["cliffwalk", "redundant"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--run", help="of the half-trained policy")
    parser.add_argument("--seed", type=int, default=1000)
    a = parser.parse_args()
    if a.file.suffix != ".npz":
        parser.error(f"{a.file} must end in .npz")
    if a.which == "redundant" and a.run is None:
        parser.error("redundant needs --run, the directory of a half-trained run on CartPole")
    try:
        columns = cliffwalk() if a.which == "cliffwalk" else redundant(a.run, a.seed)
    except (ConfigError, CheckpointError) as error:
        parser.error(str(error))
    arrays: dict[str, Any] = dict(columns)
    np.savez_compressed(a.file, **arrays)
    rows, ends = len(columns["reward"]), int(columns["is_last"].sum())
    print(f"{a.file}: {rows:,} rows, {ends:,} episodes, sum of rewards {columns['reward'].sum():g}")


def cliffwalk(n: int = 12) -> Columns:
    """Return the rows of every action sequence, once."""
    env = gymnasium.make("qdreamer/Cliffwalk-v0", n=n)
    return joined(play(env, listed(actions), 0) for actions in all_episodes(n))


def redundant(run: str, seed: int) -> Columns:
    """Return few rows worth learning from, and many copies of others."""
    env = gymnasium.make("CartPole-v1")
    agent = qdreamer.load(run)
    good: list[Columns] = []
    while sum(len(episode["reward"]) for episode in good) < HALF_TRAINED:
        good.append(play(env, policy(agent), seed + len(good)))
    random = np.random.default_rng(seed)
    few = [play(env, lambda _: int(random.integers(2)), seed + 10_000 + k) for k in range(EPISODES)]
    copies: list[Columns] = []
    while sum(len(episode["reward"]) for episode in copies) < RANDOM:
        copies.append(few[len(copies) % EPISODES])
    return joined([*good, *copies])


Choose = Callable[[NDArray[Any]], int]


def listed(actions: Iterable[int]) -> Choose:
    """Return what takes these actions, whatever it sees."""
    rest = iter(actions)
    return lambda observation: next(rest)


def policy(agent: Any) -> Choose:
    """Return what plays one episode by an agent."""
    state = None

    def choose(observation: NDArray[Any]) -> int:
        nonlocal state
        action, state = agent.act(observation, state)
        return int(action)

    return choose


def play(env: Any, choose: Choose, seed: int) -> Columns:
    """Return the rows of one episode, L + 1 for L steps."""
    observation, _ = env.reset(seed=seed)
    seen, rewards, taken, terminal, done = [observation], [0.0], list[int](), False, False
    while not done:
        taken.append(choose(observation))
        observation, reward, terminal, truncated, _ = env.step(taken[-1])
        done = terminal or truncated
        seen.append(observation)
        rewards.append(float(reward))
    last = np.arange(len(seen)) == len(taken)
    return {
        "observation": np.array(seen, np.float32),
        "action": np.array([*taken, 0]),
        "reward": np.array(rewards, np.float32),
        "is_first": np.arange(len(seen)) == 0,
        "is_last": last,
        "is_terminal": last & terminal,
    }


def joined(episodes: Iterable[Columns]) -> Columns:
    """Return episodes one after the other."""
    parts = list(episodes)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


if __name__ == "__main__":
    main()

"""PPO, SAC and DQN of Stable-Baselines3 at equal environment steps: python -m benchmarks.library_baselines.

Library defaults, except SAC's one update per step which is its default too, and DQN on MinAtar
(`--pairs minatar_breakout:DQN --steps 100000`), whose network and settings are those of Young and Tian
(2019, arXiv:1903.03176). Evaluated like our own agents: deterministic actions, whole episodes on the same
unseen reset seeds. Needs the extra `peers` (pip install -e '.[peers]').
"""

import argparse
from time import perf_counter
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.wrappers import TransformObservation
from torch import nn

from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.interaction.evaluation import mean_and_interval
from qdreamer.envs.factory import make_raw
from qdreamer.envs.seeds import evaluation_seed

PAIRS = (("Pendulum", "SAC"), ("Pendulum", "PPO"), ("Acrobot", "PPO"), ("CartPole", "PPO"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--pairs", nargs="+", default=[f"{e}:{a}" for e, a in PAIRS], help="env:algorithm")
    a = parser.parse_args()
    import stable_baselines3

    torch.set_num_threads(1)
    print(f"stable-baselines3 {stable_baselines3.__version__}, {a.steps} steps, one thread")
    print("| environment | algorithm | seed | mean return [95 %] | seconds |")
    print("|---|---|---|---|---|")
    for pair in a.pairs:
        env, algorithm = pair.split(":")
        grid = env.startswith("minatar")
        for seed in a.seeds:
            begin = perf_counter()
            settings = minatar_dqn(a.steps) if grid and algorithm == "DQN" else {}
            maker = getattr(stable_baselines3, algorithm)
            model = maker("MlpPolicy", make(env, grid), seed=seed, device="cpu", **settings)
            model.learn(a.steps)
            seconds = perf_counter() - begin
            mean, low, high = mean_and_interval(evaluate(model, make(env, grid), a.episodes))
            print(
                f"| {env} | {algorithm} | {seed} | {mean:.1f} [{low:.1f}, {high:.1f}] | {seconds:.0f} |",
                flush=True,
            )


def make(name: str, grid: bool) -> gymnasium.Env[Any, Any]:
    """Return the environment of a preset; a grid's cells (10, 10, C) as numbers (C, 10, 10)."""
    env = make_raw(load_config([f"env={name}"]).env)
    if not grid:
        return env
    assert env.observation_space.shape is not None
    height, width, channels = env.observation_space.shape
    space = spaces.Box(0.0, 1.0, (channels, height, width), np.float32)
    return TransformObservation(env, lambda cells: np.moveaxis(cells, -1, 0).astype(np.float32), space)


def minatar_dqn(steps: int) -> dict[str, Any]:
    """Return network and settings of Young and Tian's DQN, with ε going to .1 over the whole run."""

    class Convolution(nn.Module):
        features_dim = 128  # which the library asks for

        def __init__(self, space: spaces.Box) -> None:
            super().__init__()
            layers = (
                nn.Conv2d(space.shape[0], 16, 3),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(1024, 128),
                nn.ReLU(),
            )
            self.body = nn.Sequential(*layers)

        def forward(self, cells: torch.Tensor) -> torch.Tensor:
            features: torch.Tensor = self.body(cells)
            return features

    optimizer = {"alpha": 0.95, "eps": 0.01, "centered": True}
    return {
        "learning_rate": 2.5e-4, "buffer_size": 100_000, "learning_starts": min(5_000, steps // 2),
        "batch_size": 32, "gamma": 0.99, "train_freq": 1, "target_update_interval": 1_000,
        "exploration_fraction": 1.0, "exploration_final_eps": 0.1,
        "policy_kwargs": {
            "features_extractor_class": Convolution, "net_arch": [],
            "optimizer_class": torch.optim.RMSprop, "optimizer_kwargs": optimizer,
        },
    }  # fmt: skip


def evaluate(
    model: Any, env: gymnasium.Env[Any, Any], episodes: int, evaluation: int = 1, limit: int = 10_000
) -> list[float]:
    """Returns of deterministic episodes, cut at `limit` steps, on the seeds that evaluate.py uses."""
    scores = []
    for episode in range(episodes):
        observation, _ = env.reset(seed=evaluation_seed(evaluation, episode))
        score, done, steps = 0.0, False, 0
        while not done and steps < limit:
            action, _ = model.predict(np.asarray(observation), deterministic=True)
            observation, reward, terminal, truncated, _ = env.step(action)
            score += float(reward)
            done, steps = terminal or truncated, steps + 1
        scores.append(score)
    return scores


if __name__ == "__main__":
    main()

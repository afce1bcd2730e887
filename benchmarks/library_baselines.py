"""PPO, SAC and DQN of Stable-Baselines3 at equal environment steps: python -m benchmarks.library_baselines.

Library defaults, except SAC's one update per step which is its default too, and DQN on MinAtar
(`--pairs minatar_breakout:DQN --steps 100000`), whose network and settings are those of Young and Tian
(2019, arXiv:1903.03176). Evaluated like our own agents: deterministic actions, whole episodes on the same
unseen reset seeds. With --threshold a run ends at the first evaluation (every --every steps, 20 episodes)
that reaches it; seconds are shown with and without the evaluations. PPO for CartPole with the settings of
RL Baselines3 Zoo is `--pairs CartPole:PPO-zoo`. Needs the extra `peers` (pip install -e '.[peers]').
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
    parser.add_argument("--threshold", type=float, help="return at which a run ends")
    parser.add_argument("--every", type=int, default=500, help="steps between evaluations, with --threshold")
    parser.add_argument("--threads", type=int, default=1)
    a = parser.parse_args()
    import stable_baselines3

    torch.set_num_threads(a.threads)
    print(f"stable-baselines3 {stable_baselines3.__version__}, {a.steps} steps, threads={a.threads}")
    if a.threshold is not None:
        until_threshold(a)
        return
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


def until_threshold(a: argparse.Namespace) -> None:
    """Print the steps and seconds of each run to its first evaluation at the threshold, and their medians."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.vec_env import DummyVecEnv

    class UntilSolved(BaseCallback):
        """Evaluates every so many steps; ends the run at the threshold."""

        def __init__(self, env: str) -> None:
            super().__init__()
            self.env, self.due, self.evaluating, self.reached = make(env, grid=False), a.every, 0.0, False

        def _on_step(self) -> bool:
            if self.num_timesteps < self.due:
                return True
            self.due += a.every
            begin = perf_counter()
            scores = evaluate(self.model, self.env, episodes=20, evaluation=0)
            self.evaluating += perf_counter() - begin
            self.reached = float(np.mean(scores)) >= a.threshold
            return not self.reached

    print("| environment | algorithm | seed | steps | seconds | without evaluations |")
    print("|---|---|---|---|---|---|")
    for pair in a.pairs:
        env, algorithm = pair.split(":")
        found = []
        for seed in a.seeds:
            begin, callback = perf_counter(), UntilSolved(env)
            settings, copies = (ZOO_CARTPOLE, 8) if algorithm == "PPO-zoo" else ({}, 1)
            envs = DummyVecEnv([lambda env=env: make(env, grid=False)] * copies)
            model = PPO("MlpPolicy", envs, seed=seed, device="cpu", **settings)
            model.learn(a.steps, callback=callback)
            seconds = perf_counter() - begin
            steps = model.num_timesteps if callback.reached else np.inf
            found.append((steps, seconds, seconds - callback.evaluating))
            print(
                f"| {env} | {algorithm} | {seed} | " + " | ".join(f"{x:.0f}" for x in found[-1]) + " |",
                flush=True,
            )
        print(
            f"| {env} | {algorithm} | median | " + " | ".join(f"{x:.0f}" for x in np.median(found, 0)) + " |"
        )


ZOO_CARTPOLE = {
    "n_steps": 32, "batch_size": 256, "gae_lambda": 0.8, "gamma": 0.98, "n_epochs": 20, "ent_coef": 0.0,
    "learning_rate": lambda left: left * 0.001, "clip_range": lambda left: left * 0.2,
}  # fmt: skip


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

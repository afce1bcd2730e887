"""PPO, SAC and DQN of Stable-Baselines3 at equal environment steps: python -m benchmarks.library_baselines.

Library defaults, except SAC's one update per step which is its default too, and DQN on MinAtar
(`--pairs minatar_breakout:DQN --steps 100000`), whose network and settings are those of Young and Tian
(2019, arXiv:1903.03176). Evaluated like our own agents: deterministic actions, whole episodes on the same
unseen reset seeds. With --threshold a run of PPO ends at the first evaluation (every --every steps, 20
episodes) that reaches it; seconds, with and without the evaluations, count from the start of training.
`CartPole:PPO-zoo` has the settings of RL Baselines3 Zoo, made for 100,000 steps. Needs the extra `peers`
(pip install -e '.[peers]').
"""

import argparse
import sys
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
        if any(pair.split(":")[1] not in ("PPO", "PPO-zoo") for pair in a.pairs):
            parser.error("--threshold is for PPO: --pairs CartPole:PPO CartPole:PPO-zoo")
        until_threshold(a)
        return
    print("| environment | algorithm | seed | mean return [95 %] | seconds |")
    print("|---|---|---|---|---|")
    for pair in a.pairs:
        env, algorithm = pair.split(":")
        for seed in a.seeds:
            begin = perf_counter()
            model = make_model(env, algorithm, seed, a.steps)
            model.learn(a.steps)
            seconds = perf_counter() - begin
            mean, low, high = mean_and_interval(evaluate(model, make(env), a.episodes))
            print(
                f"| {env} | {algorithm} | {seed} | {mean:.1f} [{low:.1f}, {high:.1f}] | {seconds:.0f} |",
                flush=True,
            )


def make_model(env: str, algorithm: str, seed: int, steps: int) -> Any:
    """Make a learner of `NAME` or `NAME-zoo` for so many steps."""
    import stable_baselines3
    from stable_baselines3.common.vec_env import DummyVecEnv

    name, *zoo = algorithm.split("-")
    if zoo and (env, name, steps) != ("CartPole", "PPO", 100_000):
        sys.exit("the settings of the zoo that are here are those of CartPole:PPO-zoo with --steps 100000")
    settings = ZOO if zoo else minatar_dqn(steps) if is_grid(env) and name == "DQN" else {}
    envs = DummyVecEnv([lambda: make(env)] * 8) if zoo else make(env)
    return getattr(stable_baselines3, name)("MlpPolicy", envs, seed=seed, device="cpu", **settings)


class UntilSolved:
    """Evaluates a learner every so many steps, as its callback; ends the run at the threshold."""

    def __init__(self, env: str, every: int, threshold: float) -> None:
        self._env, self._every, self._threshold = make(env), every, threshold
        self._due, self.evaluating, self.reached = every, 0.0, False

    def __call__(self, variables: dict[str, Any], _: dict[str, Any]) -> bool:
        """Return whether to go on, by the variables of the library's loop."""
        model = variables["self"]
        if model.num_timesteps < self._due:
            return True
        self._due += self._every
        begin = perf_counter()
        scores = evaluate(model, self._env, episodes=20, evaluation=0)
        self.evaluating += perf_counter() - begin
        self.reached = float(np.mean(scores)) >= self._threshold
        return not self.reached


def until_threshold(a: argparse.Namespace) -> None:
    """Print the steps and seconds of each run to its first evaluation at the threshold, and their medians."""
    print("| environment | algorithm | seed | steps | seconds | without evaluations |")
    print("|---|---|---|---|---|---|")
    for pair in a.pairs:
        env, algorithm = pair.split(":")
        solved = []
        for seed in a.seeds:
            model = make_model(env, algorithm, seed, a.steps)
            callback = UntilSolved(env, a.every, a.threshold)
            begin = perf_counter()
            model.learn(a.steps, callback=callback)
            seconds = perf_counter() - begin
            figures = model.num_timesteps, seconds, seconds - callback.evaluating
            cells = " | ".join(f"{x:.0f}" for x in figures) if callback.reached else "not reached | – | –"
            print(f"| {env} | {algorithm} | {seed} | {cells} |", flush=True)
            solved += [figures] if callback.reached else []
        if len(solved) == len(a.seeds):
            cells = " | ".join(f"{x:.0f}" for x in np.median(solved, 0))
            print(f"| {env} | {algorithm} | median | {cells} |", flush=True)


ZOO = {
    "n_steps": 32, "batch_size": 256, "gae_lambda": 0.8, "gamma": 0.98, "n_epochs": 20, "ent_coef": 0.0,
    "learning_rate": lambda left: left * 0.001, "clip_range": lambda left: left * 0.2,
}  # fmt: skip


def is_grid(name: str) -> bool:
    """Tell whether the environment of a preset shows a grid of cells."""
    return name.startswith("minatar")


def make(name: str) -> gymnasium.Env[Any, Any]:
    """Return the environment of a preset; a grid's cells (10, 10, C) as numbers (C, 10, 10)."""
    env = make_raw(load_config([f"env={name}"]).env)
    if not is_grid(name):
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

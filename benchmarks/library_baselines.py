"""PPO and SAC of Stable-Baselines3 at equal environment steps: python -m benchmarks.library_baselines.

Library defaults, except SAC's one update per step which is its default too. Evaluated like our own
agents: deterministic actions, whole episodes on the same unseen reset seeds. Needs the extra
`peers` (pip install -e '.[peers]').
"""

import argparse
from time import perf_counter
from typing import Any

import gymnasium
import numpy as np
import torch

from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.interaction.evaluation import mean_and_interval
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
        env_id = load_config([f"env={env}"]).env.id
        for seed in a.seeds:
            begin = perf_counter()
            model = getattr(stable_baselines3, algorithm)("MlpPolicy", env_id, seed=seed, device="cpu")
            model.learn(a.steps)
            seconds = perf_counter() - begin
            mean, low, high = mean_and_interval(evaluate(model, env_id, a.episodes))
            print(
                f"| {env} | {algorithm} | {seed} | {mean:.1f} [{low:.1f}, {high:.1f}] | {seconds:.0f} |",
                flush=True,
            )


def evaluate(model: Any, env_id: str, episodes: int, evaluation: int = 1) -> list[float]:
    """Returns of deterministic episodes on the seeds that evaluate.py uses."""
    env = gymnasium.make(env_id)
    scores = []
    for episode in range(episodes):
        observation, _ = env.reset(seed=evaluation_seed(evaluation, episode))
        score, done = 0.0, False
        while not done:
            action, _ = model.predict(np.asarray(observation), deterministic=True)
            observation, reward, terminal, truncated, _ = env.step(action)
            score += float(reward)
            done = terminal or truncated
        scores.append(score)
    return scores


if __name__ == "__main__":
    main()

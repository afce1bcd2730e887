"""Held-out open-loop prediction error: python -m benchmarks.openloop runs/CartPole/classical/seed_0 …

For each run: episodes that training never saw, half played by the final policy, half with 30 % of
its actions random; errors are standardised by the data's deviation and compared with persistence
(the last seen observation repeated). The data depend only on the run's weights and `--seed`.
"""

import argparse
from pathlib import Path

import numpy as np

from qdreamer.agents.interaction.evaluation import EvaluationEpisode, Evaluator
from qdreamer.agents.reporting.openloop import open_loop
from qdreamer.agents.runs.run_directory import read_config
from qdreamer.agents.training.loading import load_agent

HORIZONS = (1, 5, 15, 50)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--episodes", type=int, default=20, help="of each half")
    parser.add_argument("--seed", type=int, default=2, help="sets of unseen episodes after training's")
    a = parser.parse_args()
    print("| run | " + " | ".join(f"{k} steps: MSE, ratio" for k in HORIZONS) + " |")
    print("|---" * (len(HORIZONS) + 1) + "|")
    for directory in a.runs:
        errors, references = measure(directory, a.episodes, a.seed)
        cells = [f"{errors[k - 1]:.4f}, {errors[k - 1] / references[k - 1]:.3f}" for k in HORIZONS]
        print(f"| {directory} | " + " | ".join(cells) + " |", flush=True)


def measure(directory: Path, episodes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Standardised MSE of model and persistence at 1 … 50 steps, (50,) each."""
    config = read_config(directory)
    agent = load_agent(directory, config)
    data: list[EvaluationEpisode] = []
    for half, exploration in enumerate((0.0, 0.3)):
        evaluator = Evaluator(
            config.env, episodes, config.evaluation.seed + seed + half, config.evaluation.deterministic
        )
        data += evaluator.run(agent, exploration)
        evaluator.close()
    result = open_loop(agent, data, config.evaluation.context, max(HORIZONS), max_starts=4096)
    if result is None:
        raise SystemExit(f"{directory}: every episode is shorter than {config.evaluation.context} steps")
    return result.model_error, result.persistence_error


if __name__ == "__main__":
    main()

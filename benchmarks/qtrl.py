"""Policies whose weights are made, trained by REINFORCE: QTRL's tasks (arXiv:2407.06103), with controls.

python -m benchmarks.qtrl run [--task cartpole] [--seeds 2200 2201 …] [--write docs/data/qtrl.jsonl]
python -m benchmarks.qtrl table docs/data/qtrl.jsonl

CartPole-v1 by a network 4-128-2 (898 weights), MiniGrid-Empty-5x5 (`pip install 'qdreamer[minigrid]'`) by
147-32-3 (4,835), ReLU. As published an episode is an update, by REINFORCE alone: returns with γ = 0.99, less
their mean and divided by their deviation within the episode, and Adam. Weights are made once per update. The
learning rate of each row is the best of five by the mean return of all episodes on two tuning seeds. In the
end the likeliest actions play 20 episodes on seeds that training never saw.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.generated_weights import described, read
from qdreamer.envs.seeds import evaluation_seed, training_seed
from qdreamer.worldmodel.weights.generated import generate
from qdreamer.worldmodel.weights.generator import WEIGHTS

torch.set_num_threads(1)
RATES = (0.0003, 0.001, 0.003, 0.01, 0.03)
TUNING_SEEDS = (1000, 1001)
DISCOUNT = 0.99
WINDOW = 100
"""Episodes whose mean return has to reach a task's threshold."""


class Task(NamedTuple):
    """An environment, its policy's sizes, and what is compared on it."""

    id: str
    widths: tuple[int, int, int]  # observation, hidden units, actions
    threshold: float
    scale: float  # of observations
    blocks: tuple[int, int]  # of the published circuit, and of a small one
    sizes: tuple[int, int]  # trainable numbers of the controls beside these


TASKS = {
    "cartpole": Task("CartPole-v1", (4, 128, 2), 475.0, 1.0, (5, 2), (651, 132)),
    "minigrid": Task("minigrid:MiniGrid-Empty-5x5-v0", (147, 32, 3), 0.9, 0.1, (27, 3), (2487, 249)),
}


class Row(NamedTuple):
    """A line of the table; `generator` None is a plain network of `units`."""

    name: str
    generator: str | None
    settings: dict[str, Any]
    units: int = 0
    scaled: bool = True


def rows(task: Task) -> Iterator[Row]:
    """Yield what is compared on a task."""
    inputs, hidden, actions = task.widths
    mapping = {"mapping": (10, 10, 10)}
    large, small = task.blocks
    yield Row("quantum_train as published", "quantum_train", {"blocks": large, **mapping}, scaled=False)
    yield Row("quantum_train", "quantum_train", {"blocks": large, **mapping})
    yield Row("separable_circuit", "separable_circuit", {"blocks": 2 * large, **mapping})
    yield Row("frozen_circuit", "frozen_circuit", {"blocks": large, **mapping})
    yield Row("quantum_train, small", "quantum_train", {"blocks": small, "mapping": ()})
    for size, word in zip(task.sizes, ("", ", small"), strict=True):
        for control in ("projection", "hashed", "low_rank", "mlp_generator"):
            yield Row(control + word, control, {"parameters": size})
        yield Row("small network" + word, None, {}, (size - actions) // (inputs + 1 + actions))
    yield Row("all weights trained", None, {}, hidden)


class Policy:
    """The network of a row, and the weights by which it plays."""

    def __init__(self, task: Task, row: Row) -> None:
        inputs, hidden, actions = task.widths
        units = row.units or hidden
        self.network = nn.Sequential(nn.Linear(inputs, units), nn.ReLU(), nn.Linear(units, actions))
        self.made = None
        if row.generator is not None:
            part: Any = WEIGHTS[row.generator].part
            self.made = generate(self.network, lambda count: part(count, **row.settings), row.scaled)
        self.parameters = [p for p in self.network.parameters() if p.requires_grad]

    def weights(self) -> list[NDArray[np.float32]]:
        """Make the weights anew, with gradients, and return them as numbers."""
        tensors: list[Tensor]
        if self.made is None:
            tensors = list(self.network.parameters())
        else:
            self.made.refresh()
            tensors = self.made.tensors()
        return [tensor.detach().numpy() for tensor in tensors]


class Episode(NamedTuple):
    observations: NDArray[np.float32]  # (L, D)
    actions: NDArray[np.int64]  # (L,)
    rewards: NDArray[np.float64]  # (L,)


def play(
    env: Any,
    see: Callable[[Any], NDArray[np.float32]],
    weights: Any,
    seed: int,
    random: np.random.Generator | None,
) -> Episode:
    """Play an episode by drawn actions, or by the likeliest where `random` is None."""
    into, bias, out, last = weights
    seen, actions, rewards = [], [], []
    observation, _ = env.reset(seed=seed)
    over = False
    while not over:
        x = see(observation)
        logits = out @ np.maximum(into @ x + bias, 0.0) + last
        if random is not None:
            logits = logits + random.gumbel(size=len(logits))
        action = int(logits.argmax())
        seen.append(x)
        actions.append(action)
        observation, reward, terminal, truncated, _ = env.step(action)
        rewards.append(float(reward))
        over = terminal or truncated
    return Episode(np.stack(seen), np.array(actions), np.array(rewards))


def returns(rewards: NDArray[np.float64]) -> Tensor:
    """Return discounted sums (L,), less their mean and divided by their deviation."""
    found, value = np.empty_like(rewards), 0.0
    for t in range(len(rewards) - 1, -1, -1):
        value = rewards[t] + DISCOUNT * value
        found[t] = value
    return torch.tensor((found - found.mean()) / (found.std() + 1e-8), dtype=torch.float32)


def environment(task: Task) -> tuple[Any, Callable[[Any], NDArray[np.float32]]]:
    """Return a task's environment, and what makes a vector of what it shows."""
    if task.id.startswith("minigrid") and find_spec("minigrid") is None:
        raise SystemExit("MiniGrid is missing: pip install 'qdreamer[minigrid]'")
    env = gymnasium.make(task.id, disable_env_checker=True)

    def see(observation: Any) -> NDArray[np.float32]:
        values = observation["image"] if isinstance(observation, dict) else observation
        return np.asarray(values, np.float32).ravel() * np.float32(task.scale)

    return env, see


def train(task: Task, row: Row, rate: float, seed: int, episodes: int) -> dict[str, Any]:
    """Return the episodes' returns, the evaluation's, the number of parameters and processor seconds."""
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    env, see = environment(task)
    policy = Policy(task, row)
    optimizer = torch.optim.Adam(policy.parameters, rate)
    begin, scores = time.process_time(), []
    for episode in range(episodes):
        weights = policy.weights()
        seen, actions, rewards = play(env, see, weights, training_seed(seed, 0, episode), random)
        log_probs = policy.network(torch.from_numpy(seen)).log_softmax(-1)
        chosen = log_probs.gather(-1, torch.from_numpy(actions)[:, None]).squeeze(-1)
        loss = -(chosen * returns(rewards)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scores.append(float(rewards.sum()))
    seconds = time.process_time() - begin
    weights = policy.weights()
    fresh = [float(play(env, see, weights, evaluation_seed(0, k), None).rewards.sum()) for k in range(20)]
    return {
        "scores": scores, "fresh": statistics.mean(fresh), "seconds": seconds,
        "parameters": sum(p.numel() for p in policy.parameters),
    }  # fmt: skip


def solved(scores: list[float], threshold: float) -> int | None:
    """Return the number of episodes after which the last 100 had the threshold's mean, if ever."""
    means = np.convolve(scores, np.full(WINDOW, 1.0 / WINDOW), "valid")
    above = np.flatnonzero(means >= threshold)
    return int(above[0]) + WINDOW if len(above) else None


def run(name: str, seeds: list[int], episodes: int, path: Path | None) -> None:
    """Run all rows of a task; with a path also keep them as JSON lines, and go on where those end."""
    task = TASKS[name]
    done = read(path) if path is not None and path.exists() else []
    for row in rows(task):
        if any((d["task"], d["row"]) == (name, row.name) for d in done):
            continue
        tuned = {
            rate: statistics.mean(
                statistics.mean(train(task, row, rate, seed, episodes)["scores"]) for seed in TUNING_SEEDS
            )
            for rate in RATES
        }
        rate = max(RATES, key=lambda rate: tuned[rate])
        runs = [train(task, row, rate, seed, episodes) for seed in seeds]
        record = {
            "task": name, "row": row.name, "generator": row.generator, "settings": row.settings,
            "scaled": row.scaled, "parameters": runs[0]["parameters"], "seeds": seeds,
            "rate": rate, "tuned": {str(r): round(mean, 3) for r, mean in tuned.items()},
            "solved": [solved(run["scores"], task.threshold) for run in runs],
            "last": [round(statistics.mean(run["scores"][-WINDOW:]), 4) for run in runs],
            "mean": [round(statistics.mean(run["scores"]), 4) for run in runs],
            "fresh": [round(run["fresh"], 4) for run in runs],
            "curves": [
                [round(statistics.mean(run["scores"][k : k + 50]), 3) for k in range(0, episodes, 50)]
                for run in runs
            ],
            "seconds": statistics.mean(run["seconds"] for run in runs),
        }  # fmt: skip
        print(described_row(record), flush=True)
        if path is not None:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")


def described_row(d: dict[str, Any]) -> str:
    """Return a line of the table."""
    reached = [n for n in d["solved"] if n is not None]
    when = f"{len(reached)} of {len(d['solved'])}" + (
        f", {statistics.median(reached):.0f}" if reached else ""
    )
    digits = 0 if TASKS[d["task"]].threshold > 1.0 else 2
    values = " | ".join(described(d[key], digits) for key in ("mean", "last", "fresh"))
    return f"| {d['row']} | {d['parameters']:,} | {values} | {when} | {d['rate']} |"


def print_table(path: Path) -> None:
    """Print the tables of docs/generated-weights.md."""
    found = read(path)
    for name, task in TASKS.items():
        mine = [d for d in found if d["task"] == name]
        if mine:
            print(
                f"\n{task.id.removeprefix('minigrid:')}, seeds {mine[0]['seeds'][0]}–{mine[0]['seeds'][-1]}\n"
            )
            print(
                "| weights | trained | all episodes | last 100 | 20 fresh, likeliest | solved, after | rate |"
            )
            print("|---" * 7 + "|")
            for d in mine:
                print(described_row(d))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("--task", choices=sorted(TASKS), default="cartpole")
    running.add_argument("--seeds", type=int, nargs="+", default=list(range(2200, 2205)))
    running.add_argument("--episodes", type=int, default=1000)
    running.add_argument("--write", type=Path)
    commands.add_parser("table").add_argument("file", type=Path)
    options = parser.parse_args()
    if options.command == "run":
        run(options.task, options.seeds, options.episodes, options.write)
    else:
        print_table(options.file)

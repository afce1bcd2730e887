"""Fixed experience for comparing world models: episodes of a task, and batches of them in a fixed order.

Everything follows from the task and a seed, so all kinds learn from the same rows in the same order and
are measured on the same held-out episodes. CartPole and Pendulum hide their velocities and are steered by
a mixture: each episode has its own share of stretches with a random action that is held for some steps;
in the others a controller that sees the hidden state balances or swings up.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.recall import Recall
from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.interaction.evaluation import EvaluationEpisode
from qdreamer.envs.actions import ActionSpec
from qdreamer.envs.entries import ENTRY, Spec, Vector
from qdreamer.envs.factory import make_raw
from qdreamer.envs.seeds import evaluation_seed, training_seed
from qdreamer.worldmodel.model import Batch
from qdreamer.worldmodel.rssm import Carry

HELD = 4  # mean steps of one stretch of behaviour


class Episode(NamedTuple):
    """L steps, L + 1 rows."""

    observations: NDArray[np.float32]  # (L + 1, O)
    actions: NDArray[np.float32]  # (L, A)
    rewards: NDArray[np.float32]  # (L + 1,), the first is 0
    terminal: bool

    def for_evaluation(self) -> EvaluationEpisode:
        return EvaluationEpisode(
            float(self.rewards.sum()), len(self.actions), {ENTRY: self.observations}, self.actions
        )


class Data(NamedTuple):
    observation: dict[str, Spec]
    action: ActionSpec
    train: list[Episode]
    test: list[Episode]


Steer = Callable[[NDArray[np.float64]], NDArray[np.float32]]


@dataclass(frozen=True)
class Steered:
    """An environment and its controller.

    steer: the hidden state → an action (A,). longest: steps of an episode. wild: the largest share of
    random stretches in an episode.
    """

    env: str
    hide: tuple[int, ...]
    observation: int  # O
    action: ActionSpec
    steer: Steer
    longest: int = 200
    wild: float = 1.0

    def data(self, seed: int, rows: int, held_out: int) -> Data:
        """At least `rows` rows for training, `held_out` episodes for measuring."""
        hide = f"env.hide={list(self.hide)}"
        config = load_config(["env=gym", f"env.id={self.env}", f"env.max_episode_steps={self.longest}", hide])
        env = make_raw(config.env)
        train: list[Episode] = []
        random = np.random.default_rng(np.random.SeedSequence([seed, 0]))
        while sum(len(e.observations) for e in train) < rows:
            train.append(self._episode(env, training_seed(seed, 0, len(train)), random))
        random = np.random.default_rng(np.random.SeedSequence([seed, 1]))
        test = [self._episode(env, evaluation_seed(seed, i), random) for i in range(held_out)]
        env.close()
        return Data({ENTRY: Vector(self.observation)}, self.action, train, test)

    def _episode(self, env: Any, seed: int, random: np.random.Generator) -> Episode:
        observation, _ = env.reset(seed=seed)
        share = self.wild * random.random()
        held: NDArray[np.float32] | None = None
        observations, rewards = [observation], [0.0]
        actions: list[NDArray[np.float32]] = []
        terminal = truncated = False
        while not (terminal or truncated):
            if not actions or random.random() < 1.0 / HELD:
                held = self._random_action(random) if random.random() < share else None
            action = self.steer(np.asarray(env.unwrapped.state, np.float64)) if held is None else held
            observation, reward, terminal, truncated, _ = env.step(
                int(action.argmax()) if self.action.leaves[0].kind == "discrete" else action
            )
            observations.append(observation)
            actions.append(action)
            rewards.append(float(reward))
        return Episode(
            np.asarray(observations, np.float32), np.stack(actions), np.asarray(rewards, np.float32), terminal
        )

    def _random_action(self, random: np.random.Generator) -> NDArray[np.float32]:
        return self.action.random(1, random)[0]


def balance_cart(state: NDArray[np.float64]) -> NDArray[np.float32]:
    """CartPole's hidden state (x, ẋ, θ, θ̇) → push towards where the pole falls."""
    right = state @ np.array([0.05, 0.09, 1.0, 0.2]) > 0.0
    return np.eye(2, dtype=np.float32)[int(right)]


def swing_up(state: NDArray[np.float64]) -> NDArray[np.float32]:
    """Pendulum's hidden state (θ, θ̇), θ = 0 upright → pump energy, then hold."""
    angle, speed = (state[0] + np.pi) % (2.0 * np.pi) - np.pi, state[1]
    if abs(angle) < 0.6:
        torque = -8.0 * angle - 1.5 * speed
    else:
        lacking = 15.0 - (0.5 * speed**2 + 15.0 * np.cos(angle))
        torque = lacking * (1.0 if speed >= 0.0 else -1.0)
    return np.array([np.clip(torque / 2.0, -1.0, 1.0)], np.float32)


CARTPOLE = Steered("CartPole-v1", (1, 3), 2, ActionSpec.discrete(2), balance_cart, wild=0.6)
PENDULUM = Steered("Pendulum-v1", (2,), 2, ActionSpec.continuous(1), swing_up)


def recall_data(recall: Recall, seed: int, rows: int, held_out: int) -> Data:
    """As `Steered.data`; there are no rewards."""
    random = np.random.default_rng(np.random.SeedSequence([seed, 2]))

    def episode() -> Episode:
        observations, actions = recall.episode(random)
        return Episode(observations, actions, np.zeros(recall.rows, np.float32), False)

    train = [episode() for _ in range(-(-rows // recall.rows))]
    test = [episode() for _ in range(held_out)]
    return Data({ENTRY: Vector(recall.observation)}, ActionSpec.continuous(recall.action), train, test)


class Stream:
    """Training episodes one after the other, and batches of B windows of T rows from them.

    whole: windows begin with episodes, which all have T rows; else anywhere.
    """

    def __init__(self, data: Data, length: int, seed: int, whole: bool) -> None:
        episodes = data.train
        lengths = np.array([len(e.observations) for e in episodes])
        ends = np.cumsum(lengths)
        self.length, self.whole = length, whole
        self._random = np.random.default_rng(np.random.SeedSequence([seed, 3]))
        total = int(ends[-1])
        flags = {name: np.zeros(total, np.float32) for name in ("is_first", "is_last", "is_terminal")}
        flags["is_first"][ends - lengths] = 1.0
        flags["is_last"][ends - 1] = 1.0
        flags["is_terminal"][ends - 1] = [e.terminal for e in episodes]
        nothing = np.zeros((1, data.action.size), np.float32)
        self._rows = flags | {
            "observation": np.concatenate([e.observations for e in episodes]),
            "previous_action": np.concatenate([x for e in episodes for x in (nothing, e.actions)]),
            "reward": np.concatenate([e.rewards for e in episodes]),
        }
        self._starts = ends - lengths if whole else np.arange(total - length + 1)

    def batch(self, count: int, carry: Carry) -> Batch:
        """The next B windows; each begins with `carry`."""
        starts = self._starts[self._random.integers(len(self._starts), size=count)]
        index = starts[:, None] + np.arange(self.length)  # (B, T)
        rows = {name: torch.from_numpy(column[index]) for name, column in self._rows.items()}
        observation = {ENTRY: rows.pop("observation")}
        return Batch(observation=observation, **rows, weight=torch.ones(count), carry=carry)

"""Evaluation: whole episodes with frozen weights, on seeds that training never saw."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from qdreamer.agents.dreamer import Dreamer
from qdreamer.agents.interaction.acting import ActingLoop
from qdreamer.analysis.bootstrap import interval
from qdreamer.configs.schema import Bool, Int, settings
from qdreamer.envs.config import EnvConfig
from qdreamer.envs.entries import ACTION_MASK
from qdreamer.envs.factory import make_vector
from qdreamer.envs.interface import Observation
from qdreamer.envs.seeds import evaluation_seed


@settings
class EvaluationConfig:
    """Evaluation on episode seeds that training never sees."""

    every: Int = Field(ge=1)  # environment steps
    episodes: Int = Field(ge=1, le=10_000)
    seed: Int = Field(ge=0)
    max_steps: Int = Field(ge=1)  # where longer episodes are cut
    deterministic: Bool  # take the actor's mode instead of a sample
    context: Int = Field(ge=1, le=10_000)  # observed steps before open-loop prediction
    horizon: Int = Field(ge=1, le=10_000)  # open-loop steps


KEPT = 2**28
"""Bytes of observations that all episodes of an evaluation keep at most."""


@dataclass(frozen=True)
class EvaluationEpisode:
    """One evaluation episode, and what was seen in its first L steps: all, unless that is too much."""

    score: float  # undiscounted return
    steps: int
    observations: Observation  # (L + 1, ·)
    actions: NDArray[np.float32]  # (L, A)

    @property
    def length(self) -> int:
        """L."""
        return len(self.actions)


class Stopped(Exception):  # noqa: N818 (no error: somebody asked for it)
    """An evaluation was interrupted; nothing of it counts."""


class Evaluator:
    """Runs episodes side by side; keeps its environments between calls.

    Args:
        seed: which set of episodes; equal for all runs that are to be compared.
        max_steps: where longer episodes are cut, for environments without a time limit.
    """

    def __init__(
        self, env: EnvConfig, episodes: int, seed: int, deterministic: bool, max_steps: int | None = None
    ) -> None:
        # In this process: one worker for each of many short-lived members would only cost.
        self._envs = make_vector(replace(env, vectorization="sync"), episodes)
        self._max_steps = max_steps
        self._episodes, self._seed, self._deterministic = episodes, seed, deterministic

    def run(
        self, agent: Dreamer, exploration: float = 0.0, stop: Callable[[], bool] = lambda: False
    ) -> list[EvaluationEpisode]:
        """Play the same `episodes` episodes at every call; `exploration` is the share of random actions.

        Raises Stopped as soon as `stop()` holds.
        """
        count = self._episodes
        actor = ActingLoop(agent, count, self._seed, self._deterministic, averaged=True)
        random = np.random.default_rng(np.random.SeedSequence([4, self._seed]))
        seeds: list[int | None] = [evaluation_seed(self._seed, i) for i in range(count)]
        observation, _ = self._envs.reset(seed=seeds)
        first, running = np.ones(count, np.bool_), np.ones(count, np.bool_)
        score = np.zeros(count)
        observations = [_copy(observation)]
        most = max(KEPT // sum(values.nbytes for values in observation.values()), 1)  # steps
        actions: list[NDArray[np.float32]] = []
        length = np.zeros(count, np.int64)
        step = 0
        while running.any() and step != self._max_steps:
            if stop():
                raise Stopped
            override = None
            if exploration > 0.0:
                mask = random.random(count) < exploration
                override = mask, agent.action.random(count, random, observation.get(ACTION_MASK))
            decision = actor.act(observation, first, override)
            observation, reward, terminal, truncated, _ = self._envs.step(decision.action)
            step += 1
            score += np.where(running, reward, 0.0)
            length += running
            if step < most:
                observations.append(_copy(observation))
                actions.append(decision.action)
            done = terminal | truncated
            running &= ~done
            first = np.zeros_like(first)
            if done.any() and running.any():  # the vector refuses to step finished members
                observation, _ = self._envs.reset(seed=seeds, options={"reset_mask": done})
        seen = {name: np.stack([step[name] for step in observations], 1) for name in observation}
        chosen = np.stack(actions, 1)
        return [
            EvaluationEpisode(
                float(score[i]), int(n), {k: values[i, : n + 1] for k, values in seen.items()}, chosen[i, :n]
            )
            for i, n in enumerate(length)
        ]

    def close(self) -> None:
        self._envs.close()


def _copy(observation: Observation) -> Observation:
    return {name: values.copy() for name, values in observation.items()}


def side_by_side(
    episodes: Sequence[EvaluationEpisode], steps: int
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Return episodes as a batch, zeros behind their ends, with steps + 1 = L rows each.

    These are observations (E, L, ·), previous actions (E, L, A) and is_first (E, L).
    """
    first, shape = episodes[0], (len(episodes), steps + 1)
    observation = {
        name: np.zeros((*shape, *values.shape[1:]), values.dtype)
        for name, values in first.observations.items()
    }
    previous = np.zeros((*shape, first.actions.shape[1]), np.float32)
    for e, episode in enumerate(episodes):
        for name, values in episode.observations.items():
            observation[name][e, : episode.length + 1] = values
        previous[e, 1 : episode.length + 1] = episode.actions
    is_first = torch.zeros(shape)
    is_first[:, 0] = 1.0
    entries = {name: torch.from_numpy(values) for name, values in observation.items()}
    return entries, torch.from_numpy(previous), is_first


def mean_and_interval(scores: list[float]) -> tuple[float, float, float]:
    """Return the mean of one agent's episode returns and its 95 % percentile-bootstrap interval."""
    episodes = np.asarray(scores, np.float64)[:, None]
    found = interval(lambda x: x.mean((-2, -1)), [episodes], np.random.default_rng(0))
    return found.point, found.low, found.high

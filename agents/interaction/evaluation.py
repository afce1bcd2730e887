"""Evaluation: whole episodes with frozen weights, on seeds that training never saw."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
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
from qdreamer.envs.edge.guard import EnvError, warn
from qdreamer.envs.entries import ACTION_MASK
from qdreamer.envs.factory import make_vector
from qdreamer.envs.interface import Observation
from qdreamer.envs.seeds import evaluation_seed
from qdreamer.envs.vector import Vector


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


Lend = Callable[[], AbstractContextManager[Vector]]


class Stopped(Exception):  # noqa: N818 (no error: somebody asked for it)
    """An evaluation was interrupted; nothing of it counts."""


class Evaluator:
    """Runs episodes side by side; keeps its environments between calls.

    Args:
        seed: which set of episodes; equal for all runs that are to be compared.
        max_steps: where longer episodes are cut, for environments without a time limit.
        lend: lends training's own copies, one after another's episodes, where no further ones can be made.
    """

    def __init__(
        self,
        env: EnvConfig,
        episodes: int,
        seed: int,
        deterministic: bool,
        max_steps: int | None = None,
        lend: Lend | None = None,
    ) -> None:
        self._envs: Vector | None = None
        try:  # in this process: one worker for each of many short-lived members would only cost
            self._envs = make_vector(replace(env, vectorization="sync"), episodes, "evaluation")
        except EnvError as error:
            if lend is None:
                raise
            self._lend = lend
            warn(
                f"{error}: beside training's {env.num_envs}, evaluation wanted {episodes} copies more; it "
                "plays in training's own instead, which then go back to their episodes"
            )
        self._name, self._max_steps = env.id, max_steps
        self._episodes, self._seed, self._deterministic = episodes, seed, deterministic

    def run(
        self,
        agent: Dreamer,
        exploration: float = 0.0,
        stop: Callable[[], bool] = lambda: False,
        tell: Callable[[int], None] = lambda step: None,
    ) -> list[EvaluationEpisode]:
        """Play the same `episodes` episodes at every call; `exploration` is the share of random actions.

        `tell` learns how many steps are done. Raises Stopped as soon as `stop()` holds, and EnvFailure.
        """
        if self._envs is not None:
            return self._play(self._envs, 0, agent, exploration, stop, tell)
        with self._lend() as envs:
            begins = range(0, self._episodes, envs.num_envs)
            played = [self._play(envs, begin, agent, exploration, stop, tell) for begin in begins]
        return [episode for some in played for episode in some][: self._episodes]

    def _play(
        self,
        envs: Vector,
        begin: int,
        agent: Dreamer,
        exploration: float,
        stop: Callable[[], bool],
        tell: Callable[[int], None],
    ) -> list[EvaluationEpisode]:
        """Play episodes side by side, from number `begin` on, as many as there are environments."""
        count = envs.num_envs
        actor = ActingLoop(agent, count, self._seed, self._deterministic, averaged=True)
        random = np.random.default_rng(np.random.SeedSequence([4, self._seed]))
        seeds: list[int | None] = [evaluation_seed(self._seed, begin + i) for i in range(count)]
        observation, _ = envs.reset(seed=seeds)
        first, running = np.ones(count, np.bool_), np.ones(count, np.bool_)
        score = np.zeros(count)
        observations = [observation]
        most = max(KEPT // sum(values.nbytes for values in observation.values()), 2)  # steps
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
            observation, reward, terminal, truncated, _ = envs.step(decision.action)
            step += 1
            tell(step)
            score += np.where(running, reward, 0.0)
            length += running
            if step < most:
                observations.append(observation)
                actions.append(decision.action)
            done = terminal | truncated
            running &= ~done
            first = np.zeros_like(first)
            if done.any() and running.any():  # the vector refuses to step finished members
                observation, _ = envs.reset(seed=seeds, options={"reset_mask": done})
        if running.any():
            warn(
                f"{running.sum()} of {count} evaluation episodes of env.id={self._name} did not end within "
                f"evaluation.max_steps={self._max_steps:,}: env.max_episode_steps=… gives them an end",
                ("no end", self._name),
            )
        seen = {name: np.stack([step[name] for step in observations], 1) for name in observation}
        chosen = np.stack(actions, 1)
        return [
            EvaluationEpisode(
                float(score[i]), int(n), {k: values[i, : n + 1] for k, values in seen.items()}, chosen[i, :n]
            )
            for i, n in enumerate(length)
        ]

    def close(self) -> None:
        if self._envs is not None:
            self._envs.close()


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

"""Collects experience: steps the training environments and stores every row."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from qdreamer.agents.dreamer import Dreamer, Watch
from qdreamer.agents.interaction.acting import ActingLoop
from qdreamer.agents.interaction.pink_noise import PinkNoise
from qdreamer.agents.replay.storage import Replay
from qdreamer.envs.config import EnvConfig
from qdreamer.envs.edge.guard import EnvFailure, warn
from qdreamer.envs.entries import ACTION_MASK, field
from qdreamer.envs.factory import make_vector
from qdreamer.envs.interface import Observation
from qdreamer.envs.seeds import training_seed
from qdreamer.envs.vector import Vector


class Episode(NamedTuple):
    """A finished training episode."""

    score: float  # undiscounted return
    length: int


class Collector:
    """N training environments, the agent acting in them, and the replay that they fill.

    Autoreset is exact: an episode of L steps stores L + 1 rows (its final observation is one of
    them, with no action), no dummy row exists, and each environment step counts once. On several ranks
    these are N of W·N environments, which are numbered, seeded and given random actions jointly.
    """

    def __init__(
        self,
        env: EnvConfig,
        replay: Replay,
        actor: ActingLoop,
        seed: int,
        watch: Watch = nullcontext,
        pink: bool = False,
    ) -> None:
        self._replay, self._actor, self._seed, self._watch = replay, actor, seed, watch
        self._ranks = actor.ranks
        self.envs = make_vector(env, env.num_envs)
        self._action_spec = actor.agent.action
        self._random = np.random.default_rng(np.random.SeedSequence([3, seed]))
        count = env.num_envs
        self._all = np.arange(count)
        self._pink = PinkNoise(self._action_spec.numbers, count, self._white) if pink else None
        self._episode = np.zeros(count, np.int64)  # episodes begun before the running one
        self._actions: list[list[NDArray[Any]]] = [[] for _ in range(count)]  # of running episodes
        self._reward = np.zeros(count, np.float32)
        self._first = np.ones(count, np.bool_)
        self._score = np.zeros(count, np.float64)
        self._observation = self.envs.reset(seed=self._seeds())[0]

    def step(self, random: bool) -> list[Episode]:
        """Take one step in every environment, with random or chosen actions.

        Returns the episodes that end, of all ranks. Raises EnvFailure on all ranks if an environment of any
        fails; then collector, actor and replay are as they were before.
        """
        actor, drawn = self._actor.state(), self._drawn() if random else None
        override = None
        if random:
            override = np.ones(len(self._all), np.bool_), self._random_actions()
        with self._watch("acting"):
            decision = self._actor.act(self._observation, self._first, override)
        episode, ended = self._episode, list[Episode]()
        failure: EnvFailure | None = None
        begun: Observation | None = None
        try:
            with self._watch("env"):
                seen, rewards, terminal, truncated, _ = self.envs.step(decision.action)
                done = terminal | truncated
                if done.any():
                    ended = self._ended(done, rewards)
                    self._episode = episode + done
                    begun = self.envs.reset(seed=self._seeds(), options={"reset_mask": done})[0]
        except EnvFailure as error:
            failure = error
        everywhere = self._ranks.gather_lists([(None if failure is None else str(failure), ended)])
        if failures := [text for text, _ in everywhere if text is not None]:
            self._episode = episode  # nothing is stored yet, on any rank: a checkpoint may be written
            self._actor.restore(actor)
            if drawn is not None:
                self._restore_drawn(drawn)
            raise failure or EnvFailure(failures[0])
        with self._watch("replay"):
            self._store(self._all, decision.action, decision.state, decision.stoch, False, False)
        for log, action in zip(self._actions, decision.action, strict=True):
            log.append(action)
        self._observation = seen
        self._reward = rewards.astype(np.float32)
        self._score += rewards
        self._first = np.zeros_like(done)
        if begun is not None:
            self._finish(done, terminal, begun)
        return [episode for _, ended in everywhere for episode in ended]

    def close(self) -> None:
        self.envs.close()

    def state_dict(self) -> dict[str, Any]:
        return {
            "episode": self._episode.tolist(),
            "actions": [torch.tensor(np.array(log)) for log in self._actions],  # (L, A) each
            "observation": {name: torch.tensor(values) for name, values in self._observation.items()},
            "reward": self._reward.tolist(),
            "first": self._first.tolist(),
            "score": self._score.tolist(),
            "random": json.dumps(self._random.bit_generator.state),
            "pink": None if self._pink is None else self._pink.levels,
            "actor": self._actor.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> bool:
        """Restore; return False when an environment did not come back to where it was.

        Then the environment is not determined by its seed and actions: the run goes on from the
        re-created state, but it is not the unbroken one.
        """
        self._episode[:] = state["episode"]
        self._actions = [list(log.numpy()) for log in state["actions"]]
        self._reward[:] = state["reward"]
        self._first[:] = state["first"]
        self._score[:] = state["score"]
        self._restore_drawn((json.loads(state["random"]), None if self._pink is None else state["pink"]))
        self._actor.load_state_dict(state["actor"])
        return self._go_back(state["observation"])

    @contextmanager
    def lend(self) -> Iterator[Vector]:
        """Lend the environments for other episodes; unless these fail, they then go back to their own."""
        yield self.envs
        self.envs.reset(seed=self._seeds())
        if not self._go_back(self._observation):
            warn(
                "this environment did not come back to its episode: it does not follow from seed and actions"
            )

    def _go_back(self, stored: Mapping[str, Any]) -> bool:
        """Return the environments to their running episodes; tell whether they show what they did there."""
        back = self.envs.go_back(self._episode + 1, self._seeds(), self._actions)
        self._observation = {name: np.stack([one[name] for one in back]) for name in self._observation}
        return all(np.array_equal(stored[name], values) for name, values in self._observation.items())

    def _ended(self, done: NDArray[np.bool_], rewards: NDArray[Any]) -> list[Episode]:
        """Return the episodes that a step with these rewards ends."""
        return [
            Episode(float(self._score[e] + rewards[e]), len(self._actions[e]) + 1)
            for e in np.flatnonzero(done)
        ]

    def _finish(self, done: NDArray[np.bool_], terminal: NDArray[np.bool_], begun: Observation) -> None:
        """Store the final rows of the finished episodes and go on with those that have begun."""
        env = np.flatnonzero(done)
        self._store(env, 0, 0, 0, True, terminal[env])  # neither action nor state
        for e in env:
            self._actions[e] = []
        self._observation = begun
        self._reward[env] = 0.0
        self._score[env] = 0.0
        self._first = done.copy()

    def _store(
        self, env: NDArray[Any], action: Any, state: Any, stoch: Any, last: Any, terminal: Any
    ) -> None:
        entries = {field(name): values[env] for name, values in self._observation.items()}
        self._replay.add(
            env,
            entries
            | {
                "action": action,
                "reward": self._reward[env],
                "is_first": self._first[env],
                "is_last": last,
                "is_terminal": terminal,
                "state": state,
                "stoch": stoch,
            },
        )

    def _random_actions(self) -> NDArray[np.float32]:
        """Return uniform actions (N, A) among those that are allowed, drawn for all ranks jointly."""
        mask = self._observation.get(ACTION_MASK)
        if mask is not None:  # every rank draws for all, and knows only its own masks
            mask = np.tile(mask, (self._ranks.size, 1))
        joint = self._action_spec.random(self._ranks.size * len(self._all), self._random, mask)
        own: NDArray[np.float32] = self._ranks.own(joint)
        return own if self._pink is None else self._pink.uniform(torch.from_numpy(own)).numpy()

    def _white(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Return normal noise (N, …), drawn for all ranks jointly."""
        joint = self._random.standard_normal((self._ranks.size * shape[0], *shape[1:]), np.float32)
        return torch.from_numpy(self._ranks.own(joint))

    def _drawn(self) -> tuple[Any, torch.Tensor | None]:
        """Return where random actions stand."""
        return self._random.bit_generator.state, None if self._pink is None else self._pink.levels

    def _restore_drawn(self, drawn: tuple[Any, torch.Tensor | None]) -> None:
        self._random.bit_generator.state, levels = drawn
        if self._pink is not None and levels is not None:
            self._pink.levels = levels

    def _seeds(self) -> list[int | None]:
        first = self._ranks.rank * len(self._all)
        return [training_seed(self._seed, first + e, int(k)) for e, k in enumerate(self._episode)]


def replay_state_shape(agent: Dreamer) -> tuple[int, ...]:
    """Return the shape of one packed state of the agent's sequence model."""
    sequence = agent.world_model.rssm.sequence
    return tuple(sequence.pack(sequence.initial(1)).shape[1:])


def replay_fields(agent: Dreamer) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Return shapes and types of one row, for `Replay`."""
    entries = {field(name): (spec.shape, spec.dtype) for name, spec in agent.observation.items()}
    return entries | {
        "action": ((agent.action.size,), np.float32),
        "reward": ((), np.float32),
        "is_first": ((), np.bool_),
        "is_last": ((), np.bool_),
        "is_terminal": ((), np.bool_),
        "state": (replay_state_shape(agent), np.float16),
        "stoch": ((agent.world_model.rssm.stoch,), np.uint8),
    }

"""Collects experience: steps the training environments and stores every row."""

import json
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qdreamer.agents.dreamer import Dreamer, Watch
from qdreamer.agents.interaction.acting import ActingLoop
from qdreamer.agents.replay.storage import Replay
from qdreamer.envs.config import EnvConfig
from qdreamer.envs.factory import make_vector
from qdreamer.envs.seeds import training_seed
from qdreamer.envs.spaces import ActionSpec, ObservationSpec, action_spec, observation_spec


class Episode(NamedTuple):
    """A finished training episode."""

    score: float  # undiscounted return
    length: int


def random_actions(spec: ActionSpec, count: int, random: np.random.Generator) -> NDArray[np.float32]:
    """Return uniform actions (count, A), one-hot if discrete."""
    if spec.discrete:
        return np.eye(spec.size, dtype=np.float32)[random.integers(spec.size, size=count)]
    return random.uniform(-1.0, 1.0, (count, spec.size)).astype(np.float32)


def to_env_actions(actions: NDArray[np.float32], spec: ActionSpec, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return the agent's (N, A) actions as the environment's: class numbers, or clipped boxes."""
    if spec.discrete:
        return actions.argmax(-1) + spec.start
    return np.clip(actions, -1.0, 1.0).reshape(len(actions), *shape)


def to_agent_observations(observations: NDArray[Any], spec: ObservationSpec) -> NDArray[Any]:
    """Return the environment's observations as the agent's: (N, O) floats or (N,) class numbers."""
    if spec.discrete:
        return np.asarray(observations, np.int64) - spec.start
    return np.asarray(observations, np.float32).reshape(len(observations), -1)


class Collector:
    """N training environments, the agent acting in them, and the replay that they fill.

    Autoreset is exact: an episode of L steps stores L + 1 rows (its final observation is one of
    them, with no action), no dummy row exists, and each environment step counts once. On several ranks
    these are N of W·N environments, which are numbered, seeded and given random actions jointly.
    """

    def __init__(
        self, env: EnvConfig, replay: Replay, actor: ActingLoop, seed: int, watch: Watch = nullcontext
    ) -> None:
        self._replay, self._actor, self._seed, self._watch = replay, actor, seed, watch
        self._ranks = actor.ranks
        self.envs = make_vector(env, env.num_envs)
        self._observation_spec = observation_spec(self.envs.single_observation_space)
        self._action_spec = action_spec(self.envs.single_action_space)
        self._shape = self.envs.single_action_space.shape or ()
        self._random = np.random.default_rng(np.random.SeedSequence([3, seed]))
        count = env.num_envs
        self._all = np.arange(count)
        self._episode = np.zeros(count, np.int64)  # episodes begun before the running one
        self._actions: list[list[NDArray[Any]]] = [[] for _ in range(count)]  # of running episodes
        self._reward = np.zeros(count, np.float32)
        self._first = np.ones(count, np.bool_)
        self._score = np.zeros(count, np.float64)
        observations, _ = self.envs.reset(seed=self._seeds())
        self._observation = to_agent_observations(observations, self._observation_spec)

    def step(self, random: bool) -> list[Episode]:
        """Take one step in every environment, with random or chosen actions; return the episodes that end."""
        override = None
        if random:
            joint = random_actions(self._action_spec, self._ranks.size * len(self._all), self._random)
            override = np.ones(len(self._all), np.bool_), self._ranks.own(joint)
        with self._watch("acting"):
            decision = self._actor.act(self._observation, self._first, override)
        with self._watch("replay"):
            self._store(self._all, decision.action, decision.state, decision.stoch, False, False)

        actions = to_env_actions(decision.action, self._action_spec, self._shape)
        with self._watch("env"):
            observations, rewards, terminal, truncated, _ = self.envs.step(actions)
        for log, action in zip(self._actions, actions, strict=True):
            log.append(np.asarray(action))
        done = terminal | truncated
        self._observation = to_agent_observations(observations, self._observation_spec)
        self._reward = rewards.astype(np.float32)
        self._score += rewards
        self._first = np.zeros_like(done)
        return self._finish(done, terminal) if done.any() else []

    def close(self) -> None:
        self.envs.close()

    def state_dict(self) -> dict[str, Any]:
        return {
            "episode": self._episode.tolist(),
            "actions": [[a.tolist() for a in log] for log in self._actions],
            "observation": self._observation.tolist(),
            "reward": self._reward.tolist(),
            "first": self._first.tolist(),
            "score": self._score.tolist(),
            "random": json.dumps(self._random.bit_generator.state),
            "actor": self._actor.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> bool:
        """Restore; return False when an environment did not come back to where it was.

        Then the environment is not determined by its seed and actions: the run goes on from the
        re-created state, but it is not the unbroken one.
        """
        self._episode[:] = state["episode"]
        dtype = self.envs.single_action_space.dtype
        self._actions = [[np.asarray(a, dtype) for a in log] for log in state["actions"]]
        self._reward[:] = state["reward"]
        self._first[:] = state["first"]
        self._score[:] = state["score"]
        self._random.bit_generator.state = json.loads(state["random"])
        self._actor.load_state_dict(state["actor"])
        observations = np.stack(self.envs.call("restore_by_replay", self._seeds(), self._actions))
        self._observation = to_agent_observations(observations, self._observation_spec)
        stored = np.asarray(state["observation"], self._observation.dtype)
        return bool(np.array_equal(stored, self._observation))

    def _finish(self, done: NDArray[np.bool_], terminal: NDArray[np.bool_]) -> list[Episode]:
        """Store the final rows of the finished episodes and begin new ones."""
        env = np.flatnonzero(done)
        self._store(env, 0, 0, 0, True, terminal[env])  # neither action nor state
        episodes = [Episode(float(self._score[e]), len(self._actions[e])) for e in env]
        self._episode[env] += 1
        for e in env:
            self._actions[e] = []
        observations, _ = self.envs.reset(seed=self._seeds(), options={"reset_mask": done})
        fresh = to_agent_observations(observations, self._observation_spec)
        self._observation[env] = fresh[env]
        self._reward[env] = 0.0
        self._score[env] = 0.0
        self._first = done.copy()
        return episodes

    def _store(
        self, env: NDArray[Any], action: Any, state: Any, stoch: Any, last: Any, terminal: Any
    ) -> None:
        self._replay.add(
            env,
            {
                "observation": self._observation[env],
                "action": action,
                "reward": self._reward[env],
                "is_first": self._first[env],
                "is_last": last,
                "is_terminal": terminal,
                "state": state,
                "stoch": stoch,
            },
        )

    def _seeds(self) -> list[int | None]:
        first = self._ranks.rank * len(self._all)
        return [training_seed(self._seed, first + e, int(k)) for e, k in enumerate(self._episode)]


def replay_state_shape(agent: Dreamer) -> tuple[int, ...]:
    """Return the shape of one packed state of the agent's sequence model."""
    sequence = agent.world_model.rssm.sequence
    return tuple(sequence.pack(sequence.initial(1)).shape[1:])


def replay_fields(agent: Dreamer) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Return shapes and types of one row, for `Replay`."""
    size = agent.observation.size
    return {
        "observation": ((), np.int64) if agent.observation.discrete else ((size,), np.float32),
        "action": ((agent.action.size,), np.float32),
        "reward": ((), np.float32),
        "is_first": ((), np.bool_),
        "is_last": ((), np.bool_),
        "is_terminal": ((), np.bool_),
        "state": (replay_state_shape(agent), np.float16),
        "stoch": ((agent.world_model.rssm.stoch,), np.uint8),
    }

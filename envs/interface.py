"""An environment in the agent's terms: a dict of arrays comes out, one action vector goes in."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from qdreamer.envs.actions import ActionSpec, ToEnvironment, read_actions
from qdreamer.envs.edge.guard import WrongValueError, brief, flag, number
from qdreamer.envs.entries import ACTION_MASK, ENTRY, Choice, Entry, Mask, Spec, read_entries

Observation = dict[str, NDArray[Any]]
"""Entry → its array, in the shape and type of its spec; vector environments put N first."""


class Interface(NamedTuple):
    """How an environment's observations and actions become the agent's, and back."""

    entries: dict[str, Entry]
    action: ActionSpec
    to_environment: ToEnvironment
    info_mask: Callable[[Mapping[str, Any]], NDArray[np.uint8]] | None = None  # of each step's `info`

    @property
    def observation(self) -> dict[str, Spec]:
        """The spec of each entry."""
        return {name: entry.spec for name, entry in self.entries.items()}

    def read(self, observation: Any, info: Mapping[str, Any]) -> Observation:
        """Return the entries of what the environment shows."""
        found = {name: entry.read(observation) for name, entry in self.entries.items()}
        if self.info_mask is not None:
            found[ACTION_MASK] = self.info_mask(info)
        return found


def summary(observation: Mapping[str, Spec], action: ActionSpec) -> str:
    """Return what the spaces were taken for, two lines for the user to check."""
    entries = "; ".join(
        str(spec) if name == ENTRY else f"{name}: {spec}" for name, spec in observation.items()
    )
    return f"observation: {entries}\naction: {action}"


def make_interface(env: gymnasium.Env[Any, Any], choices: Mapping[str, Choice], image_size: int) -> Interface:
    """Return the interface of an environment, which is reset once if it may have action masks in `info`.

    Arguments as of `read_entries`. Raises UnsupportedSpaceError.
    """
    action, to_environment = read_actions(env.action_space)
    discrete = all(leaf.kind == "discrete" for leaf in action.leaves)
    entries = read_entries(env.observation_space, choices, image_size, action.size if discrete else None)
    interface = Interface(entries, action, to_environment)
    choice = choices.get(ACTION_MASK)
    if not discrete or choice == "ignore" or ACTION_MASK in entries:
        return interface
    _, info = env.reset(seed=0)
    if not isinstance(info, Mapping) or np.size(info.get(ACTION_MASK, ())) != action.size:
        return interface
    everything = np.ones(action.size, np.uint8)

    def read(info: Any) -> NDArray[np.uint8]:
        mask = np.asarray(info.get(ACTION_MASK, everything) if isinstance(info, Mapping) else everything)
        if mask.size != action.size or mask.dtype.kind not in "biuf":
            raise WrongValueError(f"{ACTION_MASK} in info is {brief(mask)}, not of {action.size} numbers")
        return mask.astype(np.uint8).reshape(-1)

    entry = Entry(Mask(action.size, choice is not None), lambda observation: everything)
    return interface._replace(entries={**entries, ACTION_MASK: entry}, info_mask=read)


class NamedEntries(gymnasium.Wrapper):
    """Shows entries and takes action vectors, and can be brought back to where it was.

    The latter is how a resumed run gets its running episodes back without pickling simulators. It holds for
    every environment whose episode is determined by its reset seed and actions.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        interface: Interface,
        index: int,
        surroundings: AbstractContextManager[Any],
    ) -> None:
        super().__init__(env)
        self.interface, self._index, self._surroundings = interface, index, surroundings
        self.observation_space = spaces.Dict({name: entry.space for name, entry in interface.entries.items()})
        self.action_space = interface.action.space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        with self._surroundings:
            observation, info = self.env.reset(seed=seed, options=options)
        return self.interface.read(observation, info), info

    def step(self, action: NDArray[np.float32]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        chosen = self.interface.to_environment(action)
        with self._surroundings:
            observation, reward, terminal, truncated, info = self.env.step(chosen)
        return (
            self.interface.read(observation, info),
            number(reward),
            flag("terminated", terminal),
            flag("truncated", truncated),
            info,
        )

    def render(self) -> Any:
        with self._surroundings:
            return self.env.render()

    def close(self) -> None:
        with self._surroundings:
            self.env.close()

    def restore_by_replay(self, seeds: list[int], actions: list[NDArray[np.float32]]) -> Observation:
        """Reset to `seeds[index]`, replay `actions[index]`, each (L, A), return the last observation."""
        observation, _ = self.reset(seed=seeds[self._index])
        for action in actions[self._index]:
            observation, *_ = self.step(action)
        return observation

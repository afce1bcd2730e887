"""Copies of an environment side by side: what goes wrong in one of them ends with one line that names it."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from numpy.typing import NDArray

from qdreamer.envs.edge.guard import FAULT, NOTES, EnvFailure, Watch, brief, shorten, warn
from qdreamer.envs.interface import Interface, Observation

Outcome = tuple[Observation, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]


class Vector:
    """N copies of one environment, all `guard.Member`s, which the caller resets.

    Every array that it returns is the caller's own, and `info` is empty. `reset` and `step` raise EnvFailure
    for what an environment does wrong: an error of its own, numbers that are not finite, values that are no
    element of their space.

    Args:
        name: the environment's id. role: what the episodes are for, "evaluation", in errors.
        surroundings: what the process is to the environments, where they run in it.
    """

    def __init__(
        self,
        envs: SyncVectorEnv | AsyncVectorEnv,
        name: str,
        interface: Interface,
        role: str = "",
        surroundings: AbstractContextManager[Any] | None = None,
    ) -> None:
        self.envs, self.interface = envs, interface
        self.num_envs, self.action_space = envs.num_envs, envs.action_space
        self._name, self._role = name, f"{role} episode".lstrip()
        self._surroundings = surroundings or nullcontext()
        self._watches = {
            entry: Watch(entry, found.bounds)
            for entry, found in interface.entries.items()
            if found.spec.dtype.kind == "f"
        }
        self.episode = np.zeros(envs.num_envs, np.int64)  # of each copy, counted from 1
        self._steps = np.zeros(envs.num_envs, np.int64)
        self._seeds: list[int | None] = [None] * envs.num_envs

    def reset(
        self, *, seed: Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin episodes, of all copies or those of options["reset_mask"]."""
        chosen = np.ones(self.num_envs, np.bool_) if options is None else options["reset_mask"]
        self.episode[chosen] += 1
        self._steps[chosen] = 0
        self._seeds = self._seeds if seed is None else list(seed)
        with self._surroundings:
            observation, info = self.envs.reset(  # its None for seeds means None for each
                seed=self._seeds, options=options
            )
        return self._arrived(observation, info, None), {}

    def step(self, actions: NDArray[np.float32]) -> Outcome:
        """Take one step in every copy. Raises FloatingPointError for actions that are not finite."""
        if not math.isfinite(actions.sum()):
            raise FloatingPointError("an action is not finite")
        self._steps += 1
        with self._surroundings:
            observation, reward, terminal, truncated, info = self.envs.step(actions)
        return self._arrived(observation, info, actions), reward, terminal, truncated, {}

    def go_back(
        self,
        episode: NDArray[np.int64],
        seeds: Sequence[int | None],
        actions: Sequence[Sequence[NDArray[Any]]],
    ) -> tuple[Any, ...]:
        """Play running episodes again, number `episode` (N,) counted from 1; return what each copy shows."""
        self.episode[:], self._seeds = episode, list(seeds)
        self._steps[:] = [len(log) for log in actions]
        return self.call("restore_by_replay", list(seeds), list(actions))

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method of every copy. One that returns a text instead of an observation has failed."""
        with self._surroundings:
            found = self.envs.call(name, *args, **kwargs)
        for one in found:
            if isinstance(one, str):
                raise EnvFailure(f"env.id={self._name} did not come back to its running episode: {one}")
        return found

    def close(self, **kwargs: Any) -> None:
        with self._surroundings:
            self.envs.close(**kwargs)

    def _arrived(
        self, observation: Any, info: dict[str, Any], actions: NDArray[np.float32] | None
    ) -> Observation:
        """Return a copy of what all copies show. Raises EnvFailure."""
        if info:
            self._look(info, actions)
        for entry, watch in self._watches.items():
            if watch.fine(values := observation[entry]):
                continue
            if (found := watch.wrong(values)) is not None:
                raise self._failure(*found, actions)
            warn(f"env.id={self._name}: {watch.outside(values)}; it is taken as it is", (self._name, entry))
        return {entry: values.copy() for entry, values in observation.items()}

    def _look(self, info: dict[str, Any], actions: NDArray[np.float32] | None) -> None:
        for notes in info.get(NOTES, ()):
            for entry, text in notes or ():
                warn(f"env.id={self._name}: entry {entry} {text}; it is clipped", (self._name, entry))
        for i, fault in enumerate(info.get(FAULT, ())):
            if fault is not None:
                raise self._failure(i, fault, actions)

    def _failure(self, copy: int, what: str, actions: NDArray[np.float32] | None) -> EnvFailure:
        where = f"{self._role} {self.episode[copy]}"
        if self.num_envs > 1:
            where += f" of copy {copy + 1} of {self.num_envs}"
        if self._seeds[copy] is not None:
            where += f" (seed {self._seeds[copy]})"
        if actions is None:
            return EnvFailure(f"env.id={self._name} failed in the reset of {where}: {what}")
        action = shorten(brief(self.interface.to_environment(actions[copy])), 80)
        return EnvFailure(
            f"env.id={self._name} failed in step {self._steps[copy]} of {where} with action {action}: {what}"
        )

"""An agent as one uses it: the environment's observations in, its actions out, and what it dreams."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import Space, spaces
from gymnasium.vector.utils import concatenate, create_empty_array
from numpy.typing import NDArray
from torch import Tensor

from qdreamer.agents.dreamer import Dreamer
from qdreamer.agents.interaction.acting import ActingLoop
from qdreamer.agents.interaction.export import Exported, Latents, Score, export
from qdreamer.agents.randomness import EVALUATION, make_generator
from qdreamer.envs.interface import Interface

PlayState = ActingLoop
"""Where B episodes stand; `Player.act` returns another and leaves it as it is."""


class Imagined(NamedTuple):
    """H imagined steps of B futures."""

    observations: dict[str, NDArray[np.float32]]  # entry → (H, B, ·), in the environment's units
    actions: NDArray[np.float32]  # (H, B, A), action vectors; action t led to observation t
    rewards: NDArray[np.float32]  # (H, B)
    continuations: NDArray[np.float32]  # (H, B), probability that the episode goes on
    values: NDArray[np.float32]  # (H, B), discounted return from there on


class Player:
    """Plays and dreams with a trained agent, with the actor's moving average, as evaluations do.

    Args:
        dreamer: the agent. interface: of the environment that it was made for.
        observation_space, action_space: the environment's own. seed: of latents, and of drawn actions.
        score: the mean return of an agent over so many evaluation episodes.
    """

    def __init__(
        self,
        dreamer: Dreamer,
        interface: Interface,
        observation_space: Space[Any],
        action_space: Space[Any],
        seed: int = 0,
        score: Score | None = None,
    ) -> None:
        self._score = score
        self.dreamer, self.interface, self.seed = dreamer.eval(), interface, seed
        self.observation_space, self.action_space = observation_space, action_space

    @property
    def world_model(self) -> torch.nn.Module:
        return self.dreamer.world_model

    def act(
        self,
        observation: Any,
        state: PlayState | None = None,
        is_first: Any = None,
        deterministic: bool = True,
        info: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    ) -> tuple[Any, PlayState]:
        """Choose the next action of one episode, or of B side by side.

        Args:
            observation: an element of the environment's observation space, arrays or tensors of any numeric
                type; or B of them, with one more axis in front of every array inside.
            state: what the call before returned; None where all episodes begin.
            is_first: bool, or (B,): which episodes begin now. Nothing from before reaches them.
            deterministic: the likeliest action instead of a drawn one.
            info: of the step, or of B steps, where the environment keeps its `action_mask` there.
        Returns:
            An element of the action space, or B of them put together as Gymnasium's vectors do; the state.

        Raises ValueError for observations of another shape, or another number than the state's.
        """
        rows, alone = _rows(self.observation_space, observation)
        infos = _infos(info, len(rows), alone)
        if state is None:
            state = ActingLoop(self.dreamer, len(rows), self.seed, averaged=True)
            first = np.ones(len(rows), np.bool_)
        else:
            state, first = state.clone(), np.zeros(len(rows), np.bool_)
        if state.count != len(rows):
            raise ValueError(
                f"there are {len(rows)} observations, and the state is of {state.count} episodes"
            )
        if is_first is not None:
            first = np.broadcast_to(np.asarray(is_first, np.bool_), len(rows)).copy()
        state.deterministic = deterministic
        each = [self.interface.read(row, about) for row, about in zip(rows, infos, strict=True)]
        decision = state.act({name: np.stack([one[name] for one in each]) for name in each[0]}, first)
        actions = [self.interface.to_environment(action) for action in decision.action]
        if alone:
            return actions[0], state
        room: Any = create_empty_array(self.action_space, len(rows))
        return concatenate(self.action_space, actions, room), state

    @torch.no_grad()
    def imagine(
        self,
        start: Any,
        horizon: int = 15,
        actions: NDArray[Any] | Tensor | None = None,
        deterministic: bool = False,
        seed: int = 0,
    ) -> Imagined:
        """Dream on without looking: the prior's futures, decoded.

        Args:
            start: a state that `act` returned, or observations that begin episodes.
            actions: (H, B, A) action vectors to take (`interface.action` says which number means what), or
                classes (H, B) where the environment has one Discrete action; None: the agent's own.
            deterministic: the agent's likeliest actions instead of drawn ones. seed: of all draws.
        """
        state = start if isinstance(start, ActingLoop) else self.act(start)[1]
        model, actor, device = self.dreamer.world_model, state.network, state.device
        generator = make_generator(device, EVALUATION, seed)
        features, carry, count = state.features, state.carry, state.count
        given = None if actions is None else self._vectors(actions, count).to(device)
        steps = []
        for t in range(horizon if given is None else len(given)):
            if given is None:
                policy = actor(features, model.predict_mask(features))
                noise = actor.noise(count, generator=generator)
                action = policy.mode() if deterministic else policy.sample(noise)
            else:
                action = given[t]
            features, carry = model.rssm.imagine(action, carry, model.rssm.noise(count, generator=generator))
            steps.append((features, action))
        along, taken = (torch.stack(parts) for parts in zip(*steps, strict=True))  # (H, B, ·)
        lasting = 1.0 - 1.0 / model.config.horizon  # the model's continuation holds the discount as well
        return Imagined(
            {name: values.cpu().numpy() for name, values in model.predict(along).items()},
            taken.cpu().numpy(),
            model.reward(along).pred().cpu().numpy(),
            (model.continues(along).pred() / lasting).clamp(max=1.0).cpu().numpy(),
            self.dreamer.critic(along).pred().cpu().numpy(),
        )

    def export(self, path: str | Path, latents: Latents = "drawn", episodes: int = 10) -> Exported:
        """Write the policy to an .onnx or .pt2 file; see `agents.interaction.export`.

        With the likeliest latents it is another policy: both are played for so many evaluation `episodes`,
        and the returns stand in the result and in the file.
        """
        asked = episodes if latents == "likeliest" else 0
        return export(self.dreamer, path, latents, str(self.interface.action), self._score, asked)

    def _vectors(self, actions: NDArray[Any] | Tensor, count: int) -> Tensor:
        given, size = torch.as_tensor(actions), self.interface.action.size
        if given.dim() == 2 and isinstance(self.action_space, spaces.Discrete):
            given = torch.eye(size)[given.long() - int(self.action_space.start)]
        if given.dim() != 3 or given.shape[1:] != (count, size):
            raise ValueError(
                f"actions {tuple(given.shape)} must be (H, {count}, {size}): {self.interface.action}"
            )
        return given.float()


def _infos(info: Any, count: int, alone: bool) -> Sequence[Mapping[str, Any]]:
    """Return the `info` of each row; Gymnasium's vectors give one of arrays, and say which rows have it."""
    if info is None:
        return [{}] * count
    if alone or not isinstance(info, Mapping):
        return [info] if isinstance(info, Mapping) else info
    names = [name for name in info if f"_{name}" in info]
    return [{name: info[name][i] for name in names if info[f"_{name}"][i]} for i in range(count)]


def _rows(space: Space[Any], observation: Any) -> tuple[list[Any], bool]:
    """Return observations one by one, and whether only one was given, without an axis for more."""
    arrays = _arrays(space, observation)
    count = _count(space, arrays)
    return ([arrays] if count is None else [_row(arrays, i) for i in range(count)]), count is None


def _arrays(space: Space[Any], value: Any) -> Any:
    """Return an observation, or several, with NumPy arrays of the space's types inside."""
    if isinstance(space, spaces.Dict):
        return {key: _arrays(part, value[key]) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_arrays(part, one) for part, one in zip(space.spaces, value, strict=True))
    if space.shape is None or isinstance(space, spaces.Text):
        return value
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    return np.asarray(value).astype(space.dtype)


def _count(space: Space[Any], arrays: Any) -> int | None:
    """Return how many observations there are, None for one without an axis for more. Raises ValueError."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        parts = (
            list(space.spaces.items()) if isinstance(space, spaces.Dict) else list(enumerate(space.spaces))
        )
        counts = {_count(part, arrays[key]) for key, part in parts}
        if len(counts) > 1:
            raise ValueError("entries of the observation do not agree on how many observations there are")
        return counts.pop()
    if isinstance(space, spaces.Text):
        return None if isinstance(arrays, str) else len(arrays)
    shape = np.shape(arrays)
    if shape == space.shape:
        return None
    if shape[1:] == space.shape:
        return int(shape[0])
    raise ValueError(f"an observation of shape {shape} is neither one of {space.shape} nor several")


def _row(arrays: Any, i: int) -> Any:
    if isinstance(arrays, dict):
        return {key: _row(part, i) for key, part in arrays.items()}
    if isinstance(arrays, tuple):
        return tuple(_row(part, i) for part in arrays)
    return arrays[i]

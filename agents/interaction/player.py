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
from qdreamer.agents.interaction.observations import infos, read, rows
from qdreamer.agents.randomness import EVALUATION, make_generator
from qdreamer.envs.edge.guard import brief
from qdreamer.envs.interface import Interface
from qdreamer.envs.leaves import shown

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

        Raises ValueError for what is no element of the space, numbers that are not finite among it, and for
        another number of observations than the state's.
        """
        each, alone = rows(self.observation_space, observation)
        count = len(each)
        if not isinstance(state, PlayState | None):
            raise ValueError(f"the state is {brief(state)}, not what an earlier call of act returned")
        if state is not None and state.count != count:
            raise ValueError(f"there are {count} observations, and the state is of {state.count} episodes")
        first = np.asarray(state is None if is_first is None else is_first, np.bool_)
        if first.shape not in ((), (1,), (count,)):
            raise ValueError(f"is_first has the shape {first.shape}, not () or ({count},)")
        entries = read(self.interface, each, infos(info, count, alone))
        begun = ActingLoop(self.dreamer, count, self.seed, averaged=True) if state is None else state.clone()
        begun.deterministic = deterministic
        decision = begun.act(entries, np.broadcast_to(first, count).copy())
        actions = [self.interface.to_environment(action) for action in decision.action]
        if alone:
            return actions[0], begun
        room: Any = create_empty_array(self.action_space, count)
        return concatenate(self.action_space, actions, room), begun

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

        Raises ValueError for fewer than one step, and for actions that are none.
        """
        if actions is None and not (isinstance(horizon, int | np.integer) and horizon >= 1):
            raise ValueError(f"horizon={brief(horizon)} must be a whole number of at least 1")
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

    def export(self, path: str | Path, latents: Latents = "drawn", episodes: int | None = None) -> Exported:
        """Write the policy to an .onnx or .pt2 file; see `agents.interaction.export`.

        Both the file's policy and the agent are played for so many evaluation `episodes`, and the returns
        stand in the result and in the file. None: 10 with the likeliest latents, which make another policy,
        and none with drawn ones.
        """
        if episodes is None:
            episodes = 10 if latents == "likeliest" and self._score is not None else 0
        return export(self.dreamer, path, latents, str(self.interface.action), self._score, episodes)

    def _vectors(self, actions: NDArray[Any] | Tensor, count: int) -> Tensor:
        array = actions.detach().cpu().numpy() if isinstance(actions, Tensor) else np.asarray(actions)
        if array.dtype.kind not in "biuf" or not np.isfinite(array).all():
            raise ValueError(f"actions are {brief(actions)}: they must be finite numbers")
        given, size = torch.as_tensor(array), self.interface.action.size
        if given.dim() == 2 and isinstance(self.action_space, spaces.Discrete):
            classes = given - int(self.action_space.start)
            wrong = given[(classes < 0) | (classes >= size) | (classes % 1 != 0)]
            if len(wrong):
                raise ValueError(f"actions hold {wrong[0]:g}, outside {shown(self.action_space)}")
            given = torch.eye(size)[classes.long()]
        if given.dim() != 3 or given.shape[1:] != (count, size) or not len(given):
            raise ValueError(
                f"actions {tuple(given.shape)} must be (H, {count}, {size}): {self.interface.action}"
            )
        return given.float()

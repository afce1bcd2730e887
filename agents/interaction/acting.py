"""Acting: filter the newest observations and choose actions for N environments."""

import copy
from functools import partial
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qdreamer.agents.distributed.ranks import SINGLE_PROCESS, SingleProcess
from qdreamer.agents.dreamer import Dreamer
from qdreamer.agents.interaction.pink_noise import PinkNoise
from qdreamer.agents.randomness import ACTING, EVALUATION, generator_state, make_generator, restore_generator
from qdreamer.envs.entries import ACTION_MASK
from qdreamer.envs.interface import Observation
from qdreamer.worldmodel.sequence_models.interface import leaves, rebuild


class Decision(NamedTuple):
    """What was done at one step."""

    action: NDArray[np.float32]  # (N, A)
    state: NDArray[np.float16]  # (N, ·), the sequence model's packed state
    stoch: NDArray[np.uint8]  # (N, S), class indices


class ActingLoop:
    """The agent's side of N running episodes: carries, last actions, its own random generator.

    Actions always come from the posterior of the current observation. `averaged` plays the actor's
    moving average, as evaluations do. With `pink`, continuous actions are drawn by pink noise. With several
    `ranks` these are N of W·N episodes.
    """

    def __init__(
        self,
        agent: Dreamer,
        num_envs: int,
        seed: int,
        deterministic: bool = False,
        averaged: bool = False,
        pink: bool = False,
        ranks: SingleProcess = SINGLE_PROCESS,
    ) -> None:
        self.agent, self.ranks = agent, ranks
        self.deterministic = deterministic
        self.network = agent.average_actor if averaged else agent.actor
        self.device = next(agent.parameters()).device
        self.generator = make_generator(self.device, EVALUATION if averaged else ACTING, seed)
        self.count = num_envs
        self.carry = agent.world_model.rssm.initial(num_envs)
        self.features = torch.empty(0)  # (N, F), of the newest observations
        self._action = torch.zeros(num_envs, agent.action.size, device=self.device)
        self._pink = PinkNoise(self.network.normal_draws, num_envs, self._white) if pink else None

    @torch.no_grad()
    def act(
        self,
        observation: Observation,
        is_first: NDArray[np.bool_],
        override: tuple[NDArray[np.bool_], NDArray[np.float32]] | None = None,
    ) -> Decision:
        """Return the decision on observations (N, ·) with is_first (N,); a mask among them is honoured.

        `override` replaces the actions where its mask (N,) holds by its own (N, A).
        """
        world_model, count = self.agent.world_model, len(is_first)
        first = torch.from_numpy(is_first.astype(np.float32)).to(self.device)
        seen = {name: torch.from_numpy(values).to(self.device) for name, values in observation.items()}
        noise = self.ranks.draw(world_model.rssm.noise, count, generator=self.generator)
        self.features, self.carry = world_model.filter(seen, self._action, first, self.carry, noise)
        policy = self.network(self.features, seen.get(ACTION_MASK))
        action = policy.mode() if self.deterministic else policy.sample(self._choices(count))
        if override is not None:
            mask, other = (torch.from_numpy(array).to(self.device) for array in override)
            action = torch.where(mask.unsqueeze(-1), other, action)
        self._action = action
        state, stoch = world_model.rssm.pack(self.carry)
        return Decision(action.cpu().numpy(), state.cpu().numpy(), stoch.cpu().numpy())

    def _choices(self, count: int) -> Tensor:
        """Return what actions are drawn by, (N, ·)."""
        choices = self.ranks.draw(self.network.noise, count, generator=self.generator)
        return choices if self._pink is None else self._pink.normal(choices)

    def _white(self, shape: tuple[int, ...]) -> Tensor:
        """Return normal noise (N, …), drawn for all ranks jointly."""
        return self.ranks.draw(partial(torch.randn, device=self.device), *shape, generator=self.generator)

    def state(self) -> tuple[Any, ...]:
        """Return what the next `act` changes, for `restore`; nothing is copied but the generator's state."""
        levels = None if self._pink is None else self._pink.levels
        return self.carry, self.features, self._action, levels, self.generator.get_state()

    def restore(self, state: tuple[Any, ...]) -> None:
        """Go back to an earlier `state`."""
        self.carry, self.features, self._action, levels, generator = state
        if self._pink is not None:
            self._pink.levels = levels
        self.generator.set_state(generator)

    def clone(self) -> Self:
        """Return a copy that goes its own way from here on."""
        other = copy.copy(self)
        other.generator = torch.Generator(self.device)
        other.generator.set_state(self.generator.get_state())
        if self._pink is not None:
            other._pink = PinkNoise(self._pink.columns, self.count, other._white, self._pink.levels)
        return other

    def state_dict(self) -> dict[str, Any]:
        return {
            "carry": leaves(self.carry),
            "action": self._action,
            "generator": generator_state(self.generator),
            "pink": None if self._pink is None else self._pink.levels,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.carry = rebuild(self.carry, (tensor.to(self.device) for tensor in state["carry"]))
        self._action = state["action"].to(self.device)
        restore_generator(self.generator, state["generator"])
        if self._pink is not None:
            self._pink.levels = state["pink"].to(self.device)

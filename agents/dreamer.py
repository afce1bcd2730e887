"""The agent: world model, actor and critic, and the joint loss of one update."""

import copy
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from qdreamer.agents.actor import Actor
from qdreamer.agents.behaviour import (
    Behaviour,
    Critic,
    ReturnNormalizer,
    Rollout,
    behaviour_losses,
    ema_update,
    imagine,
    replay_value_loss,
)
from qdreamer.agents.config import AgentConfig
from qdreamer.agents.distributed.ranks import SINGLE_PROCESS, SingleProcess
from qdreamer.envs.actions import ActionSpec
from qdreamer.envs.entries import ACTION_MASK, Spec
from qdreamer.worldmodel.model import Batch, WorldModel
from qdreamer.worldmodel.networks.categorical import entropy, kl_divergence
from qdreamer.worldmodel.rssm import Trajectory
from qdreamer.worldmodel.weights.generated import GeneratedWeights

Watch = Callable[[str], AbstractContextManager[Any]]
"""Takes the time of a part of the work, which it is told by name; `nullcontext` takes none."""


class Outcome(NamedTuple):
    """What one pass over a batch found."""

    total: Tensor  # (), scaled sum of the mean losses
    losses: dict[str, Tensor]  # unscaled, (B, T); behaviour losses (B, K) for K starts per sequence
    trajectory: Trajectory
    value: Tensor  # (B, K), the critic's, of the imagination's starts; without gradients
    metrics: dict[str, Tensor]  # scalars


class Dreamer(nn.Module):
    """DreamerV3 (Hafner et al., arXiv:2301.04104v2). One optimizer updates everything from one joint loss.

    Args:
        observation, action: specs that the world model was made for.
        ranks: of joint training; a batch then holds this rank's rows of the joint batch.
    """

    def __init__(
        self,
        config: AgentConfig,
        world_model: WorldModel,
        observation: Mapping[str, Spec],
        action: ActionSpec,
        ranks: SingleProcess = SINGLE_PROCESS,
    ) -> None:
        super().__init__()
        self.config, self.ranks = config, ranks
        self.observation, self.action = observation, action
        self.world_model = world_model
        self.made: list[GeneratedWeights] = []  # of actor and critic (`agents.substitution`)
        self.actor = Actor(action, world_model.features, config, masked=ACTION_MASK in observation)
        self.average_actor = copy.deepcopy(self.actor).requires_grad_(False)
        self.critic = Critic(world_model.features, world_model.config.bins, config)
        spread = config.return_rate, config.return_limit, config.return_percentiles
        self.return_normalizer = ReturnNormalizer(*spread, ranks)
        self.loss_scales = world_model.loss_scales | config.loss_scales
        self._behaviour = Behaviour.of(config, {leaf.kind for leaf in action.leaves})

    def update_averages(self) -> None:
        """Move, after every update, the slow critic and the averaged actor that evaluation plays.

        Steps of a normalised gradient jitter around a good policy; their average lies closer to it
        (Polyak & Juditsky 1992). Weights that are made are made of the parameters as they now are.
        """
        with torch.no_grad():
            for weights in (*self.world_model.made, *self.made):
                weights.refresh()
        self.critic.update_slow()
        ema_update(self.average_actor, self.actor, self._behaviour.average_rate)

    def parts(self) -> dict[str, nn.Module]:
        """Return the parts that learn, by the names under which their gradients are logged."""
        model = self.world_model
        return {
            "encoder": model.encoder, "rssm": model.rssm, "decoder": model.decoder, "reward": model.reward,
            "continue": model.continues, "actor": self.actor, "critic": self.critic.online,
        }  # fmt: skip

    def trainable(self) -> list[nn.Parameter]:
        return [p for p in self.parameters() if p.requires_grad]

    def loss(
        self, batch: Batch, generator: torch.Generator | None = None, watch: Watch = nullcontext
    ) -> Outcome:
        """Return all losses of one batch."""
        for weights in self.made:
            weights.refresh()
        agent, model = self._behaviour, self.world_model.config
        rows, length = batch.reward.shape
        steps = agent.starts  # K
        with watch("world_model"):
            noise = self.ranks.draw(self.world_model.rssm.noise, rows, length, generator=generator)
            losses, trajectory = self.world_model.loss(batch, noise)
        with watch("imagination"):
            rollout = self.imagine(trajectory, length - steps, generator)
        with watch("behaviour"):
            behaviour = behaviour_losses(
                rollout, self.world_model, self.critic, self.return_normalizer, agent
            )
            losses |= {name: loss.mean(0).view(rows, steps) for name, loss in behaviour.losses.items()}
            recent, bootstrap = trajectory.features[:, -steps:], behaviour.returns[0].view(rows, steps)
            losses["replay_value"] = replay_value_loss(
                recent, batch, bootstrap, self.critic, model.horizon, agent
            )
        # Importance weights correct for how sequences were drawn; imagination is its own sample.
        weight = batch.weight.unsqueeze(1)  # (B, 1)
        means = {
            name: (loss if name in ("policy", "value") else loss * weight).mean()
            for name, loss in losses.items()
        }
        total = torch.stack([means[name] * scale for name, scale in self.loss_scales.items()]).sum()
        with torch.no_grad():
            kl = kl_divergence(trajectory.posterior, trajectory.prior)  # (B, T), before free nats
            metrics = {
                **behaviour.metrics,
                "world_model/kl": kl.mean(),
                "world_model/kl_is_free": (kl < model.free_nats).float().mean(),
                "world_model/posterior_entropy": entropy(trajectory.posterior).mean(),
                "world_model/prior_entropy": entropy(trajectory.prior).mean(),
            }
            metrics |= {f"loss/{name}": mean.detach() for name, mean in means.items()}
        return Outcome(total, losses, trajectory, behaviour.value[0].view(rows, steps), metrics)

    def imagine(self, trajectory: Trajectory, first: int, generator: torch.Generator | None) -> Rollout:
        """Imagine from every replayed step from `first` on: N = B·(T − first) starts."""
        rows, length = trajectory.features.shape[:2]
        t = torch.arange(first, length, device=trajectory.features.device).expand(rows, -1)  # (B, K)
        model, horizon = self.world_model, self._behaviour.horizon
        with torch.no_grad():
            starts, carry = model.rssm.start(trajectory, t)
        return imagine(model, self.actor, starts, carry, horizon, generator, self.ranks)

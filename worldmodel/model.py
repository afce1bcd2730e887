"""The world model: encoder, latent dynamics and heads, and their loss (DreamerV3, eqs. 1–3)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from qdreamer.configs.schema import ConfigError
from qdreamer.envs.entries import ACTION_MASK, Spec, field
from qdreamer.quantum.config import QuantumConfig
from qdreamer.worldmodel.attention.config import AttentionConfig
from qdreamer.worldmodel.checkpointing import by_sequence
from qdreamer.worldmodel.config import PREDICTED, WorldModelConfig
from qdreamer.worldmodel.networks.categorical import kl_divergence
from qdreamer.worldmodel.networks.entry import NETWORKS
from qdreamer.worldmodel.networks.heads import BernoulliHead, TwoHotHead
from qdreamer.worldmodel.networks.layers import scale_gradient
from qdreamer.worldmodel.networks.observations import Decoders, Encoders, Entries, Normalizers, joined
from qdreamer.worldmodel.rssm import RSSMS, Carry, Trajectory
from qdreamer.worldmodel.sequence_models.interface import SequenceConfig, leaves, make_sequence, rebuild
from qdreamer.worldmodel.weights.generated import GeneratedWeights


@dataclass(frozen=True)
class Batch:
    """B replayed sequences of T steps. Row t holds o_t, what led to it, and how it ended.

    `previous_action` is a_{t-1} (B, T, A), without effect where `is_first`; `reward` is r_t, received on
    reaching o_t. `is_last` marks an episode's final observation, `is_terminal` those final
    observations that are no mere time-outs. `carry` is the stored state before the first row.
    """

    observation: Entries  # (B, T, ·) each, as their specs say
    previous_action: Tensor  # (B, T, A)
    reward: Tensor  # (B, T)
    is_first: Tensor  # (B, T)
    is_last: Tensor  # (B, T)
    is_terminal: Tensor  # (B, T)
    weight: Tensor  # (B,), importance weights of the sequences
    carry: Carry

    def first(self, rows: int) -> "Batch":
        """Return the first of the sequences."""
        carry = rebuild(self.carry, (leaf[:rows] if leaf.dim() else leaf for leaf in leaves(self.carry)))
        entries = {name: values[:rows] for name, values in self.observation.items()}
        others = [f.name for f in fields(self) if f.name not in ("carry", "observation")]
        few = {name: getattr(self, name)[:rows] for name in others}
        return Batch(observation=entries, carry=carry, **few)


class WorldModel(nn.Module):
    """Predicts observations, rewards and continuation from latent dynamics.

    Args:
        config, sequence, attention: widths and choices.
        observation: spec of each entry. action_size: A.
        quantum: where circuits run, for attentions that have some.
    """

    def __init__(
        self,
        config: WorldModelConfig,
        sequence: SequenceConfig,
        attention: AttentionConfig,
        observation: Mapping[str, Spec],
        action_size: int,
        quantum: QuantumConfig | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self._horizon, self._free_nats = config.horizon, config.free_nats
        self._gradients, self._checkpointing = dict(config.gradients), config.checkpointing
        self.made: list[GeneratedWeights] = []  # of this model's parts, by whoever uses it
        units = config.units
        self.obs_normalizer = Normalizers(observation, config)
        self.encoder = Encoders(observation, config)
        latents = config.stoch * config.classes  # S·K
        self.rssm = RSSMS[config.posterior](
            config, make_sequence(sequence, attention, latents, action_size, quantum), self.encoder.width
        )
        self.features = self.rssm.features  # F
        self.decoder = Decoders(observation, config, self.features)
        self.reward = TwoHotHead(self.features, units, config.reward_layers, config.bins)
        self.continues = BernoulliHead(self.features, units, config.continue_layers)
        unknown = set(config.entry_scales) - set(observation)
        if unknown:
            raise ConfigError(
                f"world_model.entry_scales.{min(unknown)} names no entry of the observation; "
                f"they are {', '.join(observation)}"
            )
        scales = dict(config.loss_scales)
        shared = scales.pop("observation")
        each = {
            field(name): shared * config.entry_scales.get(name, NETWORKS[type(spec)].scale(config))
            for name, spec in observation.items()
        }
        self.loss_scales = each | scales

    def observe(
        self,
        observation: Entries,
        previous_action: Tensor,
        is_first: Tensor,
        carry: Carry,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Trajectory:
        """Filter sequences of observations, (B, T, ·) each; `noise` (B, T, S) fixes the draws."""
        if noise is None:
            noise = self.rssm.noise(*is_first.shape, generator=generator)
        embed = joined(self.encoder.embed(self.obs_normalizer.scale(observation)))  # (B, T, E)
        return self.rssm.observe(embed, previous_action, is_first, carry, noise)

    @torch.no_grad()
    def filter(
        self, observation: Entries, previous_action: Tensor, is_first: Tensor, carry: Carry, noise: Tensor
    ) -> tuple[Tensor, Carry]:
        """Take one step, for acting: `observe` of (N, ·) each → features (N, F), carry."""
        one = {name: values.unsqueeze(1) for name, values in observation.items()}
        embed = joined(self.encoder.embed(self.obs_normalizer.scale(one)))[:, 0]
        return self.rssm.filter(embed, previous_action, is_first, carry, noise)

    def loss(
        self, batch: Batch, noise: Tensor, targets: Trajectory | None = None
    ) -> tuple[dict[str, Tensor], Trajectory]:
        """Return every loss, (B, T) and unscaled, and the trajectory; `noise` as of `RSSM.observe`.

        `targets` takes the place of stopped gradients, see `kl_losses`.
        """
        for weights in self.made:
            weights.refresh()
        scaled = self.obs_normalizer.scale(batch.observation)
        run = by_sequence if self._checkpointing else _at_once
        embeddings = run(self.encoder.embed, scaled)
        trajectory = self.rssm.observe(
            joined(embeddings), batch.previous_action, batch.is_first, batch.carry, noise
        )
        observed_by, rewarded_by, continued_by = (
            scale_gradient(trajectory.features, self._gradients[name]) for name in PREDICTED
        )
        # An infinite episode ends with probability 1/horizon at every step, so that imagination
        # multiplies by the predicted continuation alone and needs no second discount.
        continues = (1.0 - batch.is_terminal) * (1.0 - 1.0 / self._horizon)
        decode = run if self.decoder.by_sequence else _at_once
        observed = decode(self.decoder.losses, observed_by, scaled, embeddings)
        losses = {
            **{field(name): loss for name, loss in observed.items()},
            "reward": run(lambda x, target: self.reward(x).loss(target), rewarded_by, batch.reward),
            "continue": run(lambda x, target: self.continues(x).loss(target), continued_by, continues),
            **kl_losses(trajectory.posterior, trajectory.prior, self._free_nats, targets),
        }
        return losses, trajectory

    @torch.no_grad()
    def predict_mask(self, features: Tensor) -> Tensor | None:
        """Return which actions are likely to be allowed (…, A), or None where all always are."""
        if ACTION_MASK not in self.decoder.names:
            return None
        return self.decoder.of(ACTION_MASK)(features).pred() > 0.5

    def predict(self, features: Tensor) -> Entries:
        """Return what is expected of each entry (…, ·), in the units of `Normalizer.target`.

        Entries without a decoder are left out.
        """
        predicted = self.decoder.predict(features)
        return {name: self.obs_normalizer.of(name).invert(value) for name, value in predicted.items()}


def _at_once(part: Callable[..., Any], *inputs: Any) -> Any:
    return part(*inputs)


def kl_losses(
    posterior: Tensor, prior: Tensor, free_nats: float, targets: Trajectory | None = None
) -> dict[str, Tensor]:
    """Return the balanced KL losses with free nats (DreamerV3, eq. 3), (B, T, S, K) → (B, T) each.

    `dynamics` teaches the prior towards the posterior, `representation` the posterior towards the
    prior; below `free_nats` in total over the S variables neither has a gradient. What is taught
    towards does not move: it is the value of this moment, or that of an earlier one, `targets`.
    """
    q, p = (posterior, prior) if targets is None else (targets.posterior, targets.prior)
    return {
        "dynamics": kl_divergence(q.detach(), prior).clamp(min=free_nats),
        "representation": kl_divergence(posterior, p.detach()).clamp(min=free_nats),
    }

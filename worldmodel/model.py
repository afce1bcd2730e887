"""The world model: encoder, latent dynamics and heads, and their loss (DreamerV3, eqs. 1–3)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qdreamer.quantum.config import QuantumConfig
from qdreamer.worldmodel.attention.config import AttentionConfig
from qdreamer.worldmodel.config import WorldModelConfig
from qdreamer.worldmodel.networks.categorical import kl_divergence
from qdreamer.worldmodel.networks.discrete import DiscreteEncoder, DiscreteHead, Unchanged
from qdreamer.worldmodel.networks.heads import BernoulliHead, TwoHotHead
from qdreamer.worldmodel.networks.vector import Standardize, Symlog, VectorEncoder, VectorHead
from qdreamer.worldmodel.rssm import RSSMS, Carry, Trajectory
from qdreamer.worldmodel.sequence_models.interface import SequenceConfig, make_sequence


@dataclass(frozen=True)
class Batch:
    """B replayed sequences of T steps. Row t holds o_t, what led to it, and how it ended.

    `previous_action` is a_{t-1} (B, T, A), without effect where `is_first`; `reward` is r_t, received on
    reaching o_t. `is_last` marks an episode's final observation, `is_terminal` those final
    observations that are no mere time-outs. `carry` is the stored state before the first row.
    """

    observation: Tensor  # (B, T, O), or (B, T) class indices
    previous_action: Tensor  # (B, T, A)
    reward: Tensor  # (B, T)
    is_first: Tensor  # (B, T)
    is_last: Tensor  # (B, T)
    is_terminal: Tensor  # (B, T)
    weight: Tensor  # (B,), importance weights of the sequences
    carry: Carry


class WorldModel(nn.Module):
    """Predicts observations, rewards and continuation from latent dynamics.

    Args:
        config, sequence, attention: widths and choices.
        observation_size, discrete: O numbers or O classes. action_size: A.
        quantum: where circuits run, for attentions that have some.
    """

    def __init__(
        self,
        config: WorldModelConfig,
        sequence: SequenceConfig,
        attention: AttentionConfig,
        observation_size: int,
        discrete: bool,
        action_size: int,
        quantum: QuantumConfig | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.discrete = discrete
        units = config.units
        self.obs_normalizer: Standardize | Symlog | Unchanged = Unchanged()
        if not discrete:
            self.obs_normalizer = Standardize(observation_size) if config.standardize else Symlog()
        encoder, decoder = (DiscreteEncoder, DiscreteHead) if discrete else (VectorEncoder, VectorHead)
        self.encoder: nn.Module = encoder(observation_size, units, config.encoder_layers)
        latents = config.stoch * config.classes  # S·K
        self.rssm = RSSMS[config.posterior](
            config, make_sequence(sequence, attention, latents, action_size, quantum)
        )
        self.features = self.rssm.features  # F
        self.decoder: nn.Module = decoder(self.features, units, config.decoder_layers, observation_size)
        self.reward = TwoHotHead(self.features, units, config.reward_layers, config.bins)
        self.continues = BernoulliHead(self.features, units, config.continue_layers)

    def observe(
        self,
        observation: Tensor,
        previous_action: Tensor,
        is_first: Tensor,
        carry: Carry,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Trajectory:
        """Filter sequences of observations, (B, T, ·) each; `noise` (B, T, S) fixes the draws."""
        if noise is None:
            noise = self.rssm.noise(*is_first.shape, generator=generator)
        embed = self.encoder(self.obs_normalizer(observation))  # (B, T, E)
        return self.rssm.observe(embed, previous_action, is_first, carry, noise)

    def loss(
        self, batch: Batch, noise: Tensor, targets: Trajectory | None = None
    ) -> tuple[dict[str, Tensor], Trajectory]:
        """Return every loss, (B, T) and unscaled, and the trajectory; `noise` as of `RSSM.observe`.

        `targets` takes the place of stopped gradients, see `kl_losses`.
        """
        trajectory = self.observe(
            batch.observation, batch.previous_action, batch.is_first, batch.carry, noise
        )
        features = trajectory.features
        # An infinite episode ends with probability 1/horizon at every step, so that imagination
        # multiplies by the predicted continuation alone and needs no second discount.
        continues = (1.0 - batch.is_terminal) * (1.0 - 1.0 / self.config.horizon)
        losses = {
            "observation": self.decoder(features).loss(self.obs_normalizer(batch.observation)),
            "reward": self.reward(features).loss(batch.reward),
            "continue": self.continues(features).loss(continues),
            **kl_losses(trajectory.posterior, trajectory.prior, self.config.free_nats, targets),
        }
        return losses, trajectory

    def predict_observation(self, features: Tensor) -> Tensor:
        """Return the expected observation (…, O) in the environment's units; probabilities if discrete."""
        return self.obs_normalizer.invert(self.decoder(features).pred())


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

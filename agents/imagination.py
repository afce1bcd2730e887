"""Imagination: roll the world model forward under the actor's own actions, without gradients."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from worldmodel.rssm import RSSM, Carry


class Rollout(NamedTuple):
    """N imagined trajectories of H steps."""

    features: Tensor  # (N, H + 1, F), the start included
    actions: Tensor  # (N, H, A), chosen at features[:, :-1]


@torch.no_grad()
def imagine(
    rssm: RSSM,
    actor: nn.Module,
    features: Tensor,
    carry: Carry,
    horizon: int,
    generator: torch.Generator | None = None,
) -> Rollout:
    """Imagine `horizon` steps from start features (N, F) and their carries.

    REINFORCE needs log-probabilities of the chosen actions, never the dynamics' gradients, so the
    rollout is gradient-free; the actor is run again on all features at once where it learns.
    """
    noise = rssm.noise(horizon, len(features), generator=generator)  # (H, N, S)
    all_features, actions = [features], []
    for noise_t in noise.unbind(0):
        action = actor(features).sample(generator)
        features, carry = rssm.imagine(action, carry, noise_t)
        all_features.append(features)
        actions.append(action)
    return Rollout(torch.stack(all_features, 1), torch.stack(actions, 1))

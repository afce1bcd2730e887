"""Imagination: roll the world model forward under the actor's own actions, without gradients."""

from typing import NamedTuple

import torch
from torch import Tensor

from qdreamer import native
from qdreamer.agents.actor import Actor, Policy
from qdreamer.agents.distributed.ranks import SINGLE_PROCESS, SingleProcess
from qdreamer.worldmodel.rssm import RSSM, Carry


class Rollout(NamedTuple):
    """N imagined trajectories of H steps."""

    features: Tensor  # (H + 1, N, F), the start included; time first, as it is written
    actions: Tensor  # (H, N, A), chosen at features[:-1]
    policy: Policy  # (H, N), what chose them; it alone carries gradients, to the actor


def imagine(
    rssm: RSSM,
    actor: Actor,
    features: Tensor,
    carry: Carry,
    horizon: int,
    generator: torch.Generator | None = None,
    ranks: SingleProcess = SINGLE_PROCESS,
) -> Rollout:
    """Imagine `horizon` steps from start features (N, F) and their carries.

    REINFORCE needs log-probabilities of the chosen actions, never the dynamics' gradients, so the
    rollout is gradient-free but for the actor: the pass that acts is the one that learns.
    """
    noise = ranks.draw(rssm.noise, horizon, len(features), generator=generator, dim=1)  # (H, N, S)
    choices = ranks.draw(actor.noise, horizon, len(features), generator=generator, dim=1)  # (H, N, ·)
    out = features.new_empty(horizon + 1, *features.shape)
    out[0] = features.detach()

    def step(action: Tensor, carry: Carry, noise: Tensor, out: Tensor) -> Carry:
        return rssm.imagine(action, carry, noise, out)[1]

    loop = native.RolloutLoop(
        actor.body, lambda o, c: actor.policy(o).sample(c), step, actor.body.from_activations
    )
    weights = native.RolloutWeights(
        rssm.sequence.native_rollout(carry.state, carry.memory, horizon), rssm.prior.native_weights(),
        actor.native_weights(), rssm.stoch, rssm.unimix, carry.stoch,
    )  # fmt: skip
    actions, output = native.rollout(loop, weights, carry, noise, choices, out)
    return Rollout(out, actions, actor.policy(output))

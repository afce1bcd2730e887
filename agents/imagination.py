"""Imagination: roll the world model forward under the actor's own actions, without gradients."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from qdreamer.agents.actor import BoundedNormalActor, CategoricalActor, Policy
from qdreamer.agents.distributed.ranks import SINGLE_PROCESS, SingleProcess
from qdreamer.native import rollout_native
from qdreamer.worldmodel.rssm import RSSM, Carry


class Rollout(NamedTuple):
    """N imagined trajectories of H steps."""

    features: Tensor  # (H + 1, N, F), the start included; time first, as it is written
    actions: Tensor  # (H, N, A), chosen at features[:-1]
    policy: Policy  # (H, N), what chose them; it alone carries gradients, to the actor


def imagine(
    rssm: RSSM,
    actor: CategoricalActor | BoundedNormalActor,
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
    if rollout_native.supports(rssm, actor, out, carry):
        table = make_table(rssm, actor) if isinstance(actor, CategoricalActor) else None
        chosen, kept = rollout_native.roll(rssm, actor, carry, noise, choices, table, out)
        return Rollout(out, chosen, actor.from_activations(out[:-1], kept))
    action_embedding = make_action_embedding(rssm, actor)
    actions, outputs = [], []
    for t in range(horizon):
        # `data`, because autograd takes what later steps write beside these rows for a change of them.
        outputs.append(actor.body(out[t].data))
        with torch.no_grad():
            actions.append(actor.policy(outputs[t]).sample(choices[t]))
            _, carry = rssm.imagine(action_embedding(actions[t]), carry, noise[t], out[t + 1])
    return Rollout(out, torch.stack(actions), actor.policy(torch.stack(outputs)))


@torch.no_grad()
def make_action_embedding(rssm: RSSM, actor: nn.Module) -> Callable[[Tensor], Tensor]:
    """Actions (N, A) → embeddings (N, ·). There are only A one-hot actions: theirs are looked up."""
    if not isinstance(actor, CategoricalActor):
        return lambda action: rssm.sequence.action_embedding(action, None)
    table = make_table(rssm, actor)
    return lambda action: table.index_select(0, action.argmax(-1))


@torch.no_grad()
def make_table(rssm: RSSM, actor: CategoricalActor) -> Tensor:
    """Embedding of each one-hot action, (A, ·)."""
    weight = next(rssm.parameters())
    return rssm.sequence.action_embedding(
        torch.eye(actor.count, dtype=weight.dtype, device=weight.device), None
    )

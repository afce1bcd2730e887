"""Actor and critic losses on imagined and replayed trajectories (Hafner et al. 2023, eqs. 7–11)."""

from typing import NamedTuple

import torch
from torch import Tensor

from qdreamer.agents.critic import Critic
from qdreamer.agents.imagination import Rollout
from qdreamer.agents.returns import ReturnNormalizer, lambda_return
from qdreamer.agents.training.config import AgentConfig
from qdreamer.worldmodel.model import Batch, WorldModel


class BehaviourLosses(NamedTuple):
    losses: dict[str, Tensor]  # policy (H, N), value (H, N)
    returns: Tensor  # λ-returns (H, N)
    value: Tensor  # (H + 1, N), without gradients
    metrics: dict[str, Tensor]  # scalars


def behaviour_losses(
    rollout: Rollout,
    world_model: WorldModel,
    critic: Critic,
    scale: ReturnNormalizer,
    config: AgentConfig,
) -> BehaviourLosses:
    """REINFORCE with normalised advantages for the actor, two-hot regression for the critic.

    Gradients reach actor and critic only: the rollout carries none but those of its policy to the
    actor, and the predictions of reward and continuation carry none.
    """
    features, actions, policy = rollout  # (H+1, N, F), (H, N, A), (H, N)
    with torch.no_grad():
        reward = world_model.predict_reward(features).pred()  # (H+1, N)
        discount = world_model.predict_continue(features).pred()  # (H+1, N)
        # Probability that the imagined step is reached at all, the start's own end included.
        weight = torch.cumprod(discount, 0)[:-1]  # (H, N)
    output = critic(features[:-1])
    with torch.no_grad():
        value = torch.cat([output.pred(), critic(features[-1:]).pred()])  # (H+1, N)
    returns = lambda_return(reward.t(), discount.t(), value.t(), None, config.lambda_).t().contiguous()
    spread = scale.update(returns)  # (H, N) → ()
    advantage = (returns - value[:-1]) / spread  # (H, N)

    log_prob, entropy = policy.log_prob(actions), policy.entropy()  # (H, N)
    losses = {
        "policy": -weight * (log_prob * advantage + config.entropy[policy.kind] * entropy),
        "value": weight * critic.loss(output, features[:-1], returns, config.slow_scale),
    }
    metrics = {
        "actor/entropy": entropy.mean(),
        "actor/advantage_abs": advantage.abs().mean(),
        "critic/value": value.mean(),
        "critic/return": returns.mean(),
        "critic/return_spread": spread,
        "imagination/reward": reward.mean(),
        "imagination/weight": weight[-1].mean(),
    }
    return BehaviourLosses(losses, returns, value, {k: v.detach() for k, v in metrics.items()})


def replay_value_loss(
    features: Tensor, batch: Batch, bootstrap: Tensor, critic: Critic, horizon: float, config: AgentConfig
) -> Tensor:
    """Critic loss on the replayed trajectory itself, (B, K) → (B, K − 1).

    Args:
        features: (B, K, F), the last K replayed steps; gradients flow into the world model.
        bootstrap: (B, K), the imagined λ-return of each of these steps.
        horizon: effective discount horizon, γ = 1 − 1/horizon.
    """
    steps = bootstrap.shape[1]
    last, terminal = batch.is_last[:, -steps:], batch.is_terminal[:, -steps:]
    discount = (1.0 - terminal) * (1.0 - 1.0 / horizon)
    returns = lambda_return(batch.reward[:, -steps:], discount, bootstrap, last, config.lambda_)
    # An episode's final row has no successor inside the episode.
    inner = features[:, :-1]
    return (1.0 - last[:, :-1]) * critic.loss(critic(inner), inner, returns, config.slow_scale)

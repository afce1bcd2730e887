"""How the agent learns to act: imagination, the critic, losses of actor and critic (DreamerV3, eqs. 4–7)."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

import torch
from torch import Tensor, nn

from qdreamer import native
from qdreamer.agents.actor import Actor, Policy
from qdreamer.agents.config import AgentConfig
from qdreamer.agents.distributed.ranks import SINGLE_PROCESS, SingleProcess
from qdreamer.worldmodel.model import Batch, WorldModel
from qdreamer.worldmodel.networks.heads import TwoHot, TwoHotHead
from qdreamer.worldmodel.rssm import Carry
from qdreamer.worldmodel.weights.generated import effective


class BehaviourSettings(Protocol):
    """What the losses go by, as AgentConfig has it."""

    @property
    def lambda_(self) -> float: ...

    @property
    def slow_scale(self) -> float: ...

    @property
    def entropy(self) -> Mapping[str, float]: ...


@dataclass(frozen=True)
class Behaviour:
    """The settings of behaviour that an agent goes by; entropy's are those of the kinds of its actions."""

    lambda_: float
    slow_scale: float
    entropy: Mapping[str, float]
    horizon: int  # H
    starts: int  # K
    average_rate: float

    @classmethod
    def of(cls, config: AgentConfig, kinds: Iterable[str]) -> Self:
        """Take from a config what actions of these kinds need."""
        entropy = {kind: config.entropy[kind] for kind in kinds}
        horizon, starts = config.imagination_horizon, config.imagination_starts
        return cls(config.lambda_, config.slow_scale, entropy, horizon, starts, config.average_rate)


class Rollout(NamedTuple):
    """N imagined trajectories of H steps."""

    features: Tensor  # (H + 1, N, F), the start included; time first, as it is written
    actions: Tensor  # (H, N, A), chosen at features[:-1]
    policy: Policy  # (H, N), what chose them; it alone carries gradients, to the actor


def imagine(
    world_model: WorldModel,
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
    rssm = world_model.rssm
    noise = ranks.draw(rssm.noise, horizon, len(features), generator=generator, dim=1)  # (H, N, S)
    choices = ranks.draw(actor.noise, horizon, len(features), generator=generator, dim=1)  # (H, N, ·)
    out = features.new_empty(horizon + 1, *features.shape)
    out[0] = features.detach()

    loop = native.RolloutLoop(
        act=lambda features: actor.output(features, world_model.predict_mask(features)),
        act_again=actor.body.from_activations,
        sample=lambda output, choices: actor.policy(output).sample(choices),
        step=lambda action, carry, noise, out: rssm.imagine(action, carry, noise, out)[1],
    )  # fmt: skip
    with torch.no_grad():
        sequence = rssm.sequence.native_rollout(carry.state, carry.memory, horizon)
    weights = native.RolloutWeights(
        sequence, rssm.prior.native_weights(), actor.native_weights(), actor.spec.size, rssm.stoch,
        rssm.unimix, carry.stoch,
    )  # fmt: skip
    actions, output = native.rollout(loop, weights, carry, noise, choices, out)
    return Rollout(out, actions, actor.policy(output))


class Critic(nn.Module):
    """Values as symexp two-hot bins, with an exponential moving average of its own weights.

    The average only regularises: targets are bootstrapped from the online critic.
    """

    def __init__(self, features: int, bins: int, config: AgentConfig) -> None:
        super().__init__()
        self.online = TwoHotHead(features, config.units, config.critic_layers, bins)
        self.slow = copy.deepcopy(self.online).requires_grad_(False)
        self.slow_rate = config.slow_rate

    def forward(self, features: Tensor) -> TwoHot:
        return self.online(features)

    def update_slow(self) -> None:
        """Set slow ← (1 − rate)·slow + rate·online, after every update."""
        ema_update(self.slow, self.online, self.slow_rate)

    def loss(self, output: TwoHot, features: Tensor, target: Tensor, slow_scale: float) -> Tensor:
        """Return the cross-entropy of `output` = self(features) to targets (…) and slow values (…)."""
        with torch.no_grad():
            slow_target = self.slow(features).pred()
        return output.loss(target, slow_target, scales=(1.0, slow_scale))


@torch.no_grad()
def ema_update(average: nn.Module, module: nn.Module, rate: float) -> None:
    """Set average ← (1 − rate)·average + rate·module, for all weights of two modules of one kind."""
    torch._foreach_lerp_(list(average.parameters()), effective(module), rate)


class BehaviourLosses(NamedTuple):
    """What imagined trajectories teach actor and critic."""

    losses: dict[str, Tensor]  # policy (H, N), value (H, N)
    returns: Tensor  # λ-returns (H, N)
    value: Tensor  # (H + 1, N), without gradients
    metrics: dict[str, Tensor]  # scalars


def lambda_return(
    reward: Tensor, discount: Tensor, bootstrap: Tensor, last: Tensor | None, lambda_: float
) -> Tensor:
    """Return the λ-returns of steps 0 … T−2, for sequences of T steps (eq. 7).

    R_t = r_{t+1} + d_{t+1}·((1 − λ_{t+1})·b_{t+1} + λ_{t+1}·R_{t+1}),  R_{T-1} = b_{T-1}

    Args:
        reward: r, (B, T). discount: d, (B, T), 0 at terminal steps. bootstrap: b, (B, T), values.
        last: (B, T) or None; where 1 the recursion stops at the bootstrap (λ_t = 0). lambda_: λ.
    Returns:
        (B, T − 1).
    """
    keep = torch.full_like(reward, lambda_) if last is None else lambda_ * (1.0 - last)
    inputs = (reward + (1.0 - keep) * discount * bootstrap).unbind(1)
    weights = (keep * discount).unbind(1)
    returns = bootstrap[:, -1]
    out = []
    for t in range(len(inputs) - 1, 0, -1):
        returns = torch.addcmul(inputs[t], weights[t], returns)
        out.append(returns)
    return torch.stack(out[::-1], 1)


class ReturnNormalizer(nn.Module):
    """max(1, P95 − P5) of the returns, each percentile an exponential moving average (eq. 11).

    Small returns are not blown up to full scale, so sparse rewards do not amplify noise. Percentiles
    are those of all ranks' returns.
    """

    low: Tensor
    high: Tensor

    def __init__(
        self, rate: float, limit: float, percentiles: Sequence[float], ranks: SingleProcess = SINGLE_PROCESS
    ) -> None:
        super().__init__()
        self.rate, self.limit, self.percentiles, self._ranks = rate, limit, percentiles, ranks
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    @torch.no_grad()
    def update(self, returns: Tensor) -> Tensor:
        """Take in a batch of returns (any shape) and return the scale, ()."""
        quantiles = torch.tensor(self.percentiles, device=returns.device, dtype=returns.dtype) / 100.0
        low, high = torch.quantile(self._ranks.gather(returns.flatten()), quantiles)
        self.low.lerp_(low, self.rate)
        self.high.lerp_(high, self.rate)
        return (self.high - self.low).clamp(min=self.limit)


def behaviour_losses(
    rollout: Rollout,
    world_model: WorldModel,
    critic: Critic,
    normalizer: ReturnNormalizer,
    config: BehaviourSettings,
) -> BehaviourLosses:
    """Return losses: REINFORCE with normalised advantages for the actor, two-hot regression for the critic.

    Gradients reach actor and critic only: the rollout carries none but those of its policy to the
    actor, and the predictions of reward and continuation carry none.
    """
    features, actions, policy = rollout  # (H+1, N, F), (H, N, A), (H, N)
    with torch.no_grad():
        reward = world_model.reward(features).pred()  # (H+1, N)
        discount = world_model.continues(features).pred()  # (H+1, N)
        # Probability that the imagined step is reached at all, the start's own end included.
        weight = torch.cumprod(discount, 0)[:-1]  # (H, N)
    output = critic(features[:-1])
    with torch.no_grad():
        value = torch.cat([output.pred(), critic(features[-1:]).pred()])  # (H+1, N)
    returns = lambda_return(reward.t(), discount.t(), value.t(), None, config.lambda_).t().contiguous()
    spread = normalizer.update(returns)  # (H, N) → ()
    advantage = (returns - value[:-1]) / spread  # (H, N)

    log_prob, entropies = policy.log_prob(actions), policy.entropy()  # (H, N)
    bonus = sum(config.entropy[kind] * entropy for kind, entropy in entropies.items())
    losses = {
        "policy": -weight * (log_prob * advantage + bonus),
        "value": weight * critic.loss(output, features[:-1], returns, config.slow_scale),
    }
    metrics = {
        "actor/entropy": torch.stack(list(entropies.values())).sum(0).mean(),
        "actor/advantage_abs": advantage.abs().mean(),
        "critic/value": value.mean(),
        "critic/return": returns.mean(),
        "critic/return_spread": spread,
        "imagination/reward": reward.mean(),
        "imagination/weight": weight[-1].mean(),
    }
    return BehaviourLosses(losses, returns, value, {k: v.detach() for k, v in metrics.items()})


def replay_value_loss(
    features: Tensor,
    batch: Batch,
    bootstrap: Tensor,
    critic: Critic,
    horizon: float,
    config: BehaviourSettings,
) -> Tensor:
    """Return the critic's loss on the replayed trajectory itself, (B, K) → (B, K − 1).

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

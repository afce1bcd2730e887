"""The world-model loss around the present weights, as the hybrid optimizer may know it.

Training follows a direction that is the gradient of no function: latents are drawn anew from
probabilities that move with the weights, their gradient is straight-through, and the KL terms stop one
gradient each. So at the present weights θ₀ everything that training takes for constant is made so:

* a latent is z = p(θ) + (z₀ − p₀): the class that was drawn, moved as its probabilities move
  (`categorical.frozen_sample`). With the noise alone fixed, a draw would jump from class to class where a sum
  of probabilities passes its variable, and a difference of gradients over ε would see the jumps over ε;
* KL(sg(q) ‖ p) + ρ·KL(q ‖ sg(p)) becomes KL(q₀ ‖ p) + ρ·KL(q ‖ p₀).

What remains is a function of the weights, smooth but where free nats set in. Its value and gradient at
θ₀ are those of training, to the rounding, and it has a Hessian, a symmetric one: the only sense in which
a second-order model of this loss is one.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from qdreamer.agents.distributed.ranks import SINGLE_PROCESS, SingleProcess
from qdreamer.agents.optim.optimizer import Objective
from qdreamer.agents.randomness import shard_seed
from qdreamer.worldmodel.model import Batch, WorldModel
from qdreamer.worldmodel.networks.categorical import frozen_sample
from qdreamer.worldmodel.rssm import Trajectory


class WorldModelObjective:
    """The world-model loss on the batch of an update and on others from the replay.

    Args:
        batch, trajectory: of the update, seen with the present weights.
        draw: a new batch of so many sequences, from a generator. ranks: these are one rank's part of them.
    """

    def __init__(
        self,
        model: WorldModel,
        batch: Batch,
        trajectory: Trajectory,
        draw: Callable[[int, np.random.Generator], Batch],
        ranks: SingleProcess = SINGLE_PROCESS,
    ) -> None:
        self._model, self._batch, self._trajectory = model, batch, trajectory
        self._draw, self._ranks = draw, ranks

    def full_batch(self) -> Objective:
        return frozen_loss(self._model, self._batch, self._trajectory)

    def sub_batch(self, rows: int) -> Objective | None:
        batch = self._batch
        if rows >= len(batch.reward):
            return None
        seen = {name: getattr(self._trajectory, name)[:rows] for name in ("features", "posterior", "prior")}
        return frozen_loss(self._model, batch.first(rows), self._trajectory._replace(**seen))

    @torch.no_grad()
    def fresh(self, rows: int, seed: int) -> tuple[Tensor, Objective]:
        # 10: this stream's number, see agents.randomness.
        random = np.random.default_rng(np.random.SeedSequence([10, shard_seed(seed, self._ranks.rank)]))
        batch = self._draw(rows, random)
        source = torch.Generator(batch.reward.device).manual_seed(seed)
        noise = self._ranks.draw(self._model.rssm.noise, *batch.reward.shape, generator=source)
        with same_draws(batch):
            losses, trajectory = self._model.loss(batch, noise)
        here = weighted(losses, batch, self._model)
        return here, frozen_loss(self._model, batch, trajectory)


def frozen_loss(model: WorldModel, batch: Batch, trajectory: Trajectory) -> Objective:
    """Return the world model's share of the training loss, as a function of the present weights.

    Draws and stopped gradients are held as in `trajectory`.
    """
    noise = frozen_sample(trajectory.stoch(), trajectory.posterior)  # (B, T, S, K)
    targets = trajectory._replace(posterior=trajectory.posterior.detach(), prior=trajectory.prior.detach())

    def loss() -> Tensor:
        with same_draws(batch):
            losses, _ = model.loss(batch, noise, targets=targets)  # (B, T) each
        return weighted(losses, batch, model)

    return loss


@contextmanager
def same_draws(batch: Batch) -> Iterator[None]:
    """Let attentions that draw draw the same numbers every time, and take none from the run."""
    devices = [batch.reward.device] if batch.reward.is_cuda else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(0)
        yield


def weighted(losses: dict[str, Tensor], batch: Batch, model: WorldModel) -> Tensor:
    """Return the world model's share of the total loss () of losses (B, T)."""
    weight = batch.weight.unsqueeze(1)  # (B, 1)
    scales = model.loss_scales
    return torch.stack([(losses[name] * weight).mean() * scale for name, scale in scales.items()]).sum()

"""Whether the world model learns its replay by heart: its loss on held-out episodes beside that on replay.

Evaluation's episodes are never learned from. Their loss is another one than replay's, which begins in the
middle of episodes and is of all policies so far; so it is their course that is compared.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import torch

from qdreamer.agents.dreamer import Dreamer
from qdreamer.agents.interaction.evaluation import EvaluationEpisode, side_by_side
from qdreamer.envs.entries import field
from qdreamer.worldmodel.model import kl_losses

STEPS = 64  # of each episode, from its beginning
MOST_NUMBERS = 2**23
"""Numbers of observations that are looked at in all: images get fewer episodes."""
RISE, TIMES = 1.2, 3
"""Overfitting: so often in a row, held-out loss so far above its lowest, and replay's lower than then."""


def compared(agent: Dreamer) -> list[str]:
    """Return the losses that need no reward and no end: those of observations, and the prior's."""
    return [*map(field, agent.observation), "dynamics"]


@torch.no_grad()
def held_out_loss(agent: Dreamer, episodes: Sequence[EvaluationEpisode], seed: int = 0) -> float | None:
    """Return the scaled world-model loss of the beginnings of episodes, the mean of their steps.

    None where a loss is defined for whole batches only (`world_model.image.objective=redundancy`).
    """
    model = agent.world_model
    if not model.decoder.by_sequence:
        return None
    numbers = sum(values[0].size for values in episodes[0].observations.values()) * (STEPS + 1)
    episodes = [_beginning(episode) for episode in episodes[: max(MOST_NUMBERS // numbers, 1)]]
    lengths = torch.tensor([episode.length + 1 for episode in episodes])  # (E,), rows
    entries, previous, is_first = side_by_side(episodes, int(lengths.max()) - 1)
    device = next(agent.parameters()).device
    entries = {name: values.to(device) for name, values in entries.items()}
    generator = torch.Generator(device).manual_seed(seed)
    scaled = model.obs_normalizer.scale(entries)
    trajectory = model.observe(
        entries,
        previous.to(device),
        is_first.to(device),
        model.rssm.initial(len(episodes)),
        generator=generator,
    )
    found = {
        field(name): loss for name, loss in model.decoder.losses(trajectory.features, scaled, {}).items()
    }
    found |= kl_losses(trajectory.posterior, trajectory.prior, model.config.free_nats)
    loss = torch.stack([found[name] * model.loss_scales[name] for name in compared(agent)]).sum(0)  # (E, L)
    valid = torch.arange(loss.shape[1], device=device) < lengths.to(device)[:, None]  # (E, L)
    return float(loss[valid].mean())


def replay_loss(agent: Dreamer, metrics: Mapping[str, float]) -> float | None:
    """Return the same of what was learned from, of a line of the log; None before learning begins."""
    if "loss/dynamics" not in metrics:
        return None
    return sum(metrics[f"loss/{name}"] * agent.world_model.loss_scales[name] for name in compared(agent))


def _beginning(episode: EvaluationEpisode) -> EvaluationEpisode:
    rows = {name: values[: STEPS + 1] for name, values in episode.observations.items()}
    return replace(episode, observations=rows, actions=episode.actions[:STEPS])


@dataclass
class OverfittingMonitor:
    """Follows both losses from evaluation to evaluation."""

    replay: float | None = None  # in the last line of the log
    lowest: float | None = None  # held-out loss
    replay_then: float | None = None  # when that was
    times: int = 0  # in a row

    def evaluated(self, held_out: float) -> bool:
        """Take in the loss of an evaluation; tell whether now is the time to warn."""
        if self.replay is None:
            return False
        if self.lowest is None or self.replay_then is None or held_out < self.lowest:
            self.lowest, self.replay_then, self.times = held_out, self.replay, 0
        elif held_out > RISE * self.lowest and self.replay < self.replay_then:
            self.times += 1
        else:
            self.times = 0
        return self.times == TIMES

    def state_dict(self) -> dict[str, float | None]:
        return asdict(self)

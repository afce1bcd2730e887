"""Open-loop prediction: how far ahead the world model predicts without observations.

Held-out episodes are filtered from their beginning. From many of their steps the prior is rolled
forward under the true actions, decoded, and compared with what really happened. Errors are
standardised by the data's deviation; the reference is persistence (nothing changes).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qdreamer.agents.dreamer import Dreamer
from qdreamer.agents.interaction.evaluation import EvaluationEpisode, side_by_side

LEAST_VARIATION = 0.05  # of what the agent saw in training


class OpenLoop(NamedTuple):
    """Predictions from M starts over H steps; NaN where the episode had ended."""

    predicted: NDArray[np.float32]  # (M, H, O)
    true: NDArray[np.float32]  # (M, H, O)
    model_error: NDArray[np.float64]  # (H,), standardised MSE at 1 … H steps
    persistence_error: NDArray[np.float64]  # (H,)


@torch.no_grad()
def open_loop(
    agent: Dreamer,
    episodes: Sequence[EvaluationEpisode],
    context: int,
    horizon: int,
    max_starts: int = 512,
    seed: int = 0,
) -> OpenLoop | None:
    """Predict from evenly spaced steps of the episodes, each after at least `context` steps.

    None when no episode is long enough for a single prediction, or nothing varies.
    """
    device = next(agent.parameters()).device
    lengths = [episode.length for episode in episodes]
    points = [(e, t) for e, n in enumerate(lengths) for t in range(context - 1, n)]
    if not points:
        return None
    picked = np.unique(np.linspace(0, len(points) - 1, min(max_starts, len(points))).astype(int))
    b, t = torch.tensor([points[i] for i in picked], device=device).unbind(1)  # (M,), (M,)

    longest = max(lengths) + horizon
    observation, previous, is_first = (x.to(device) for x in side_by_side(episodes, longest))
    rssm = agent.world_model.rssm
    generator = torch.Generator(device).manual_seed(seed)
    seen, acted, begins = (x[:, : int(t.max()) + 1] for x in (observation, previous, is_first))
    initial = rssm.initial(len(episodes))
    trajectory = agent.world_model.observe(seen, acted, begins, initial, generator=generator)
    _, carry = rssm.start(trajectory, t, b)
    predicted = []
    for k in range(1, horizon + 1):
        noise = rssm.noise(len(b), generator=generator)
        features, carry = rssm.imagine(previous[b, t + k], carry, noise)
        predicted.append(agent.world_model.predict_observation(features))
    target = observation  # (E, L, O)
    if agent.observation.discrete:
        target = torch.nn.functional.one_hot(observation.long(), agent.observation.size).float()
    steps = t[:, None] + torch.arange(1, horizon + 1, device=device)  # (M, H)
    true = target[b[:, None], steps]
    valid = steps <= torch.tensor(lengths, device=device)[b][:, None]
    real = torch.cat([target[e, : n + 1] for e, n in enumerate(lengths)])
    deviation = real.std(0, correction=0)  # (O,)
    # An entry that hardly varies here (a leg that never touched the ground) has no scale to judge by.
    varies = deviation > LEAST_VARIATION * agent.world_model.obs_normalizer.deviation()
    if not varies.any():
        return None
    return _errors(torch.stack(predicted, 1), true, target[b, t], valid, deviation, varies)


def _errors(
    predicted: Tensor, true: Tensor, start: Tensor, valid: Tensor, deviation: Tensor, varies: Tensor
) -> OpenLoop:
    def error(guess: Tensor) -> NDArray[np.float64]:
        squared = ((guess - true) / deviation)[..., varies].square().mean(-1)  # (M, H)
        masked = torch.where(valid, squared, 0.0).double()
        return (masked.sum(0) / valid.sum(0)).cpu().numpy()

    hole = ~valid.unsqueeze(-1)
    return OpenLoop(
        predicted.masked_fill(hole, torch.nan).cpu().numpy(),
        true.masked_fill(hole, torch.nan).cpu().numpy(),
        error(predicted),
        error(start.unsqueeze(1)),
    )

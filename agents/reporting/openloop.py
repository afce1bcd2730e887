"""Open-loop prediction: how far ahead the world model predicts without observations.

Held-out episodes are filtered from their beginning. From many of their steps the prior is rolled
forward under the true actions, decoded, and compared with what really happened. Errors are
standardised by the data's deviation; the reference is persistence (nothing changes).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qdreamer.agents.dreamer import Dreamer
from qdreamer.agents.interaction.evaluation import EvaluationEpisode, side_by_side

LEAST_VARIATION = 0.05  # of what the agent saw in training
MOST_NUMBERS = 2**24
"""Numbers of observations that are filtered, and of predictions: images get fewer steps and starts."""


class Prediction(NamedTuple):
    """One entry from M starts over H steps; NaN where the episode had ended."""

    predicted: NDArray[np.float32]  # (M, H, ·), with the axes of an image
    true: NDArray[np.float32]  # (M, H, ·)


class OpenLoop(NamedTuple):
    """What was predicted, and errors: means over the numbers of an entry that vary, and over entries."""

    entries: dict[str, Prediction]
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
    largest = max(values[0].size for values in episodes[0].observations.values())
    episodes = _within(episodes, MOST_NUMBERS // largest, context + horizon)
    max_starts = max(min(max_starts, MOST_NUMBERS // (largest * horizon)), 1)
    lengths = [episode.length for episode in episodes]
    points = [(e, t) for e, n in enumerate(lengths) for t in range(context - 1, n)]
    if not points:
        return None
    picked = np.unique(np.linspace(0, len(points) - 1, min(max_starts, len(points))).astype(int))
    b, t = torch.tensor([points[i] for i in picked], device=device).unbind(1)  # (M,), (M,)

    observation, previous, is_first = side_by_side(episodes, max(lengths) + horizon)
    observation = {name: values.to(device) for name, values in observation.items()}
    previous, is_first, steps = previous.to(device), is_first.to(device), int(t.max()) + 1
    model, rssm = agent.world_model, agent.world_model.rssm
    generator = torch.Generator(device).manual_seed(seed)
    seen = {name: values[:, :steps] for name, values in observation.items()}
    trajectory = model.observe(
        seen, previous[:, :steps], is_first[:, :steps], rssm.initial(len(episodes)), generator=generator
    )
    _, carry = rssm.start(trajectory, t, b)
    predicted = []
    for k in range(1, horizon + 1):
        noise = rssm.noise(len(b), generator=generator)
        features, carry = rssm.imagine(previous[b, t + k], carry, noise)
        predicted.append(model.predict(features))

    ahead = t[:, None] + torch.arange(1, horizon + 1, device=device)  # (M, H)
    valid = ahead <= torch.tensor(lengths, device=device)[b][:, None]
    entries, errors = {}, []
    for name in predicted[0]:
        normalizer = model.obs_normalizer.of(name)
        target = normalizer.target(observation[name])  # (E, L, ·)
        real = torch.cat([target[e, : n + 1] for e, n in enumerate(lengths)])
        deviation = real.std(0, correction=0)  # (·)
        # A number that hardly varies here (a leg that never touched the ground) has no scale to judge by.
        varies = deviation > LEAST_VARIATION * normalizer.deviation()
        found, true = torch.stack([step[name] for step in predicted], 1), target[b[:, None], ahead]
        if varies.any():
            scale = deviation, varies, valid
            errors.append((_error(found - true, *scale), _error(target[b, t].unsqueeze(1) - true, *scale)))
        hole = ~valid.reshape(*valid.shape, *[1] * (true.dim() - 2))
        entries[name] = Prediction(*(x.masked_fill(hole, torch.nan).cpu().numpy() for x in (found, true)))
    if not errors:
        return None
    model_error, persistence_error = np.mean(errors, 0)
    return OpenLoop(entries, model_error, persistence_error)


def _within(episodes: Sequence[EvaluationEpisode], steps: int, least: int) -> Sequence[EvaluationEpisode]:
    """Return the beginnings of as many episodes as have at most so many steps, at least `least` each."""
    if sum(episode.length for episode in episodes) <= steps:
        return episodes
    few = episodes[: max(steps // least, 1)]
    each = max(steps // len(few), least)
    return [
        replace(
            episode,
            observations={name: values[: each + 1] for name, values in episode.observations.items()},
            actions=episode.actions[:each],
        )
        for episode in few
    ]


def _error(wrong: Tensor, deviation: Tensor, varies: Tensor, valid: Tensor) -> NDArray[np.float64]:
    """Return the standardised mean square of errors (M, H, ·), where they are valid (M, H) → (H,)."""
    squared = (wrong / deviation)[..., varies].square().mean(-1)  # (M, H)
    masked = torch.where(valid, squared, 0.0).double()
    return (masked.sum(0) / valid.sum(0)).cpu().numpy()

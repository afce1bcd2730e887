"""What an evaluation leaves in the log: returns, open-loop errors, pictures and videos."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from qdreamer.agents.dreamer import Dreamer
from qdreamer.agents.interaction.evaluation import EvaluationEpisode
from qdreamer.agents.replay import Sampler
from qdreamer.agents.reporting.attention_report import attention_numbers, attention_picture, attention_views
from qdreamer.agents.reporting.metrics import MetricsLog
from qdreamer.agents.reporting.monitor import LAYOUT
from qdreamer.agents.reporting.openloop import open_loop
from qdreamer.agents.reporting.pictures import add_gif, gif, open_loop_picture, record_video, save_gif
from qdreamer.agents.training.config import Config
from qdreamer.envs.factory import EnvError

HORIZONS = (1, 5, 15, 50)
HPARAMS = (
    "seed",
    "env",
    "agent",
    "world_model",
    "sequence",
    "attention",
    "replay",
    "optimizer",
    "quantum",
    "train",
)


def _flatten(values: dict[str, Any], path: str = "") -> Iterator[tuple[str, bool | float | str]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value if isinstance(value, bool | int | float | str) else str(value)


class Reporter:
    """Writes evaluations; remembers nothing but whether videos are possible."""

    def __init__(self, config: Config, log: MetricsLog, directory: Path) -> None:
        self._config, self._log, self._directory = config, log, directory
        self.video_problem: str | None = None

    def begin(self) -> None:
        """Settings for TensorBoard's TEXT and HPARAMS tabs, charts for CUSTOM SCALARS."""
        self._log.layout(LAYOUT)
        values = dataclasses.asdict(self._config)
        self._log.text("config", f"```yaml\n{yaml.safe_dump(json.loads(json.dumps(values)))}```")
        flat = dict(_flatten(values))
        names = [key for key in flat if key.split(".")[0] in HPARAMS]
        self._log.hparams({key: flat[key] for key in names}, ["eval/return"])

    def evaluation(
        self,
        step: int,
        agent: Dreamer,
        episodes: Sequence[EvaluationEpisode],
        interval: tuple[float, float, float],
        seconds: float,
    ) -> None:
        """One line of metrics, and pictures when they are due."""
        scores = [episode.score for episode in episodes]
        values = dict(zip(("eval/return", "eval/return_low", "eval/return_high"), interval, strict=True))
        values |= {
            "eval/return_min": min(scores),
            "eval/return_max": max(scores),
            "eval/length": float(np.mean([episode.length for episode in episodes])),
            "time/eval_at": seconds,
        }
        settings, logging = self._config.evaluation, self._config.logging
        result = open_loop(agent, episodes, settings.context, settings.horizon)
        if result is not None:
            for k in HORIZONS:
                if k <= settings.horizon and np.isfinite(result.model_error[k - 1]):
                    values[f"open_loop/mse_{k:02d}"] = float(result.model_error[k - 1])
                    values[f"open_loop/persistence_{k:02d}"] = float(result.persistence_error[k - 1])
        views = attention_views(agent, episodes[0])
        values |= attention_numbers(views)
        self._log.scalars(step, values)
        if self._log.board is None:
            return
        if views and self._due(step, logging.pictures_every):
            title = f"attention in an evaluation episode, step {step}; each row by its largest weight"
            self._log.image(step, "attention/maps", attention_picture(views, title))
        if result is not None and self._due(step, logging.pictures_every):
            picture = open_loop_picture(result, f"open-loop prediction at step {step}")
            self._log.image(step, "open_loop/traces", picture)
        if self._due(step, logging.video_every):
            self._video(step, agent)

    def histograms(self, step: int, sampler: Sampler) -> None:
        """How priorities and importance weights are spread."""
        if self._log.board is not None:
            for name, values in sampler.histograms().items():
                if len(values):  # before the first draw there are none
                    self._log.histogram(step, name, values)

    def _due(self, step: int, every: int) -> bool:
        """Evaluations come at multiples of evaluation.every: take the first at or after each due step."""
        if every == 0:
            return False
        before = step - self._config.evaluation.every
        return step >= self._config.steps or step // every > max(before, 0) // every

    def _video(self, step: int, agent: Dreamer) -> None:
        if self.video_problem is not None:
            return
        settings = self._config.evaluation
        try:
            frames = record_video(
                agent,
                self._config.env,
                settings.seed,
                settings.deterministic,
                self._config.logging.video_frames,
            )
        except EnvError as error:  # an environment without rgb_array: training goes on, said once
            self.video_problem = str(error)
            return
        data = gif(frames)
        save_gif(self._directory / "videos", f"step_{step}.gif", data)
        if self._log.board is not None:
            add_gif(self._log.board, "eval/video", data, frames[0].size, step)

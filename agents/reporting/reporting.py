"""What an evaluation leaves in the log: returns, open-loop errors, pictures and videos."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from qdreamer.agents.dreamer import Dreamer
from qdreamer.agents.interaction.evaluation import EvaluationConfig, EvaluationEpisode
from qdreamer.agents.replay.sampler import Sampler
from qdreamer.agents.reporting.attention_report import attention_numbers, attention_picture, attention_views
from qdreamer.agents.reporting.metrics import MetricsLog
from qdreamer.agents.reporting.openloop import OpenLoop, open_loop
from qdreamer.agents.reporting.pictures import (
    gif,
    open_loop_picture,
    open_loop_videos,
    record_video,
    save_gif,
)
from qdreamer.agents.reporting.writers.writer import WRITERS
from qdreamer.configs.schema import Int, settings
from qdreamer.envs.config import EnvConfig
from qdreamer.envs.edge.guard import EnvError, told
from qdreamer.envs.interface import Observation
from qdreamer.worldmodel.sequence_models.layer_view import LayerView

HORIZONS = (1, 5, 15, 50)


@settings
class LoggingConfig:
    """What is written, how often (in environment steps)."""

    every: Int = Field(ge=1)
    writers: tuple[Annotated[str, WRITERS], ...]  # outputs, each by its name
    pictures_every: Int = Field(ge=0)  # 0: never
    video_every: Int = Field(ge=0)  # 0: never; the end of the run counts
    video_frames: Int = Field(ge=1, le=10_000)

    def __post_init__(self) -> None:
        if "jsonl" not in self.writers:
            raise ValueError(
                "logging.writers must hold jsonl: metrics.jsonl is what resumes and comparisons go by"
            )
        if len(set(self.writers)) < len(self.writers):
            raise ValueError(f"logging.writers names an output twice: {', '.join(self.writers)}")


class Reporter:
    """Logs evaluations; remembers nothing but what is not possible.

    Args:
        steps: of the whole run, whose last evaluation always has pictures. batch_length: T.
    """

    def __init__(
        self,
        env: EnvConfig,
        evaluation: EvaluationConfig,
        logging: LoggingConfig,
        steps: int,
        batch_length: int,
        log: MetricsLog,
        directory: Path,
    ) -> None:
        self._env, self._evaluation, self._steps = env, evaluation, steps
        self._pictures_every = logging.pictures_every if log.pictures else 0
        self._video_every = logging.video_every if log.pictures else 0
        self._video_frames = logging.video_frames
        self._batch_length, self._log, self._directory = batch_length, log, directory
        self.problems: dict[str, str] = {}  # "videos" or "pictures" → why there are none

    def evaluation(
        self,
        step: int,
        agent: Dreamer,
        episodes: Sequence[EvaluationEpisode],
        interval: tuple[float, float, float],
        seconds: float,
    ) -> None:
        """Log an evaluation's numbers, and pictures when they are due."""
        scores = [episode.score for episode in episodes]
        values = dict(zip(("eval/return", "eval/return_low", "eval/return_high"), interval, strict=True))
        values |= {
            "eval/return_min": min(scores),
            "eval/return_max": max(scores),
            "eval/length": float(np.mean([episode.steps for episode in episodes])),
            "time/eval_at": seconds,
        }
        horizon = self._evaluation.horizon
        result = open_loop(agent, episodes, self._evaluation.context, horizon)
        if result is not None:
            for k in sorted({*HORIZONS, horizon}):
                if k <= horizon and np.isfinite(result.model_error[k - 1]):
                    values[f"open_loop/mse_{k:02d}"] = float(result.model_error[k - 1])
                    values[f"open_loop/persistence_{k:02d}"] = float(result.persistence_error[k - 1])
        views = attention_views(agent, episodes[0])
        values |= attention_numbers(views, self._batch_length)
        self._log.scalars(step, values)
        self._extra("pictures", lambda: self._pictures(step, result, views, episodes[0].observations))
        if self._due(step, self._video_every):
            self._extra("videos", lambda: self._video(step, agent))

    def _extra(self, what: str, make: Callable[[], None]) -> None:
        """Make what training can do without; the first failure is the last try."""
        if what in self.problems:
            return
        try:
            make()
        except Exception as error:
            self.problems[what] = str(error) if isinstance(error, EnvError) else told(error)

    def _pictures(
        self,
        step: int,
        result: OpenLoop | None,
        views: list[LayerView],
        observations: Observation,
    ) -> None:
        if views and self._due(step, self._pictures_every):
            title = f"attention in an evaluation episode, step {step}\neach row by its largest weight"
            picture = attention_picture(views, observations, title)
            self._log.image(step, "attention/maps", picture)
        if result is not None and self._due(step, self._pictures_every):
            picture = open_loop_picture(result, f"open-loop prediction at step {step}")
            self._log.image(step, "open_loop/traces", picture)
            for name, frames in open_loop_videos(result).items():
                data = gif(frames, fps=5.0)
                file = f"open_loop_{name.replace('/', '_')}_step_{step}.gif"
                save_gif(self._directory / "videos", file, data)
                self._log.video(step, f"open_loop/{name}", data, frames[0].size)

    def histograms(self, step: int, sampler: Sampler) -> None:
        """Log how priorities and importance weights are spread."""
        if self._log.pictures:
            for name, values in sampler.histograms().items():
                self._log.histogram(step, name, values)

    def _due(self, step: int, every: int) -> bool:
        """Tell whether this evaluation is the first at or after a multiple of `every`."""
        if every == 0:
            return False
        before = step - self._evaluation.every
        return step >= self._steps or step // every > max(before, 0) // every

    def _video(self, step: int, agent: Dreamer) -> None:
        evaluation, frames = self._evaluation, self._video_frames
        images = record_video(agent, self._env, evaluation.seed, evaluation.deterministic, frames)
        data = gif(images)
        save_gif(self._directory / "videos", f"step_{step}.gif", data)
        self._log.video(step, "eval/video", data, images[0].size)

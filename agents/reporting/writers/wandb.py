"""Weights & Biases: an extra, pip install 'qdreamer[wandb]'. WANDB_MODE=offline keeps all on this machine."""

import hashlib
import os
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from qdreamer.agents.reporting.writers.writer import WRITERS, Writer
from qdreamer.configs.schema import ConfigError


@WRITERS.register("wandb")
class WeightsAndBiases(Writer):
    """A run of the project WANDB_PROJECT, or `qdreamer`, that is named for its directory.

    The service keeps what it has been sent: a run that goes on from a checkpoint sends on from the step that
    was sent last. Raises ConfigError without the library.
    """

    pictures = True

    def __init__(self, directory: Path, resume_at: int | None, position: int) -> None:
        try:
            import wandb
        except ImportError as error:
            raise ConfigError("logging.writers=[wandb] needs wandb: pip install 'qdreamer[wandb]'") from error
        self._wandb = wandb
        name = "/".join(directory.absolute().parts[-3:])
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "qdreamer"),
            id=hashlib.sha256(str(directory.absolute()).encode()).hexdigest()[:16],
            name=name,
            group=directory.parent.name,
            dir=str(directory),
            resume="allow",
        )

    def begin(self, settings: dict[str, Any]) -> None:
        self._run.config.update(settings, allow_val_change=True)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def histogram(self, step: int, name: str, values: NDArray[Any]) -> None:
        self._run.log({name: self._wandb.Histogram(values.tolist())}, step=step)

    def image(self, step: int, name: str, image: NDArray[Any]) -> None:
        self._run.log({name: self._wandb.Image(image)}, step=step)

    def video(self, step: int, name: str, gif: bytes, size: tuple[int, int]) -> None:
        path = self.path(name, step)
        path.write_bytes(gif)
        self._run.log({name: self._wandb.Video(str(path), format="gif")}, step=step)

    def path(self, name: str, step: int) -> Path:
        """Return where a video lies until it is sent."""
        return Path(self._run.dir) / f"{name.replace('/', '_')}_{step}.gif"

    def close(self) -> None:
        self._run.finish()

"""The interface of an output of a run, and the outputs by name."""

from pathlib import Path
from typing import Any, ClassVar

from numpy.typing import NDArray

from qdreamer.configs.registry import Registry


class Writer:
    """An output of a run. A subclass overrides what it can show, and ignores the rest.

    Args:
        directory: the run's directory.
        resume_at: step of the checkpoint that the run goes on from; None at the run's beginning.
        position: what `position` returned when that checkpoint was written, 0 if the writer was not there
            then. What was written after it must go: the run writes it again.
    """

    pictures: ClassVar[bool] = False  # takes images and videos; where no writer does, none are made

    essential: ClassVar[bool] = False  # a run does not go on without it; others are left out when they fail

    def __init__(self, directory: Path, resume_at: int | None, position: int) -> None:
        self.directory = directory

    def begin(self, settings: dict[str, Any]) -> None:
        """Take the settings of a run that begins, section by section."""

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Take what is logged at a step; a value that is not finite ends the run after this call."""

    def histogram(self, step: int, name: str, values: NDArray[Any]) -> None:
        """Take values (n,), n > 0."""

    def image(self, step: int, name: str, image: NDArray[Any]) -> None:
        """Take an RGB picture (H, W, 3) of bytes."""

    def video(self, step: int, name: str, gif: bytes, size: tuple[int, int]) -> None:
        """Take an encoded GIF of `size` (width, height)."""

    def position(self) -> int:
        """Return how much was written; all of it is safely on disk."""
        return 0

    def close(self) -> None:
        """Finish; nothing is written afterwards."""


WRITERS: Registry[type[Writer]] = Registry("writers", "qdreamer.agents.reporting.writers")

"""TensorBoard: curves, pictures and videos, the run's settings, and charts by question."""

import json
import time
from pathlib import Path
from typing import Any

import yaml
from numpy.typing import NDArray

from qdreamer.agents.reporting.writers.monitor import layout
from qdreamer.agents.reporting.writers.writer import WRITERS, Writer
from qdreamer.configs.schema import dotted

# What the HPARAMS tab shows of every run, beside the settings that its folder is named for.
HPARAMS = (
    "seed", "env.id", "agent.name", "sequence.name", "attention.name", "replay.name", "optimizer.name",
)  # fmt: skip
# TensorBoard sorts charts by name: the return is shown once more where it comes first.
FIRST = {"eval/return": "0_return/evaluation", "train/return": "0_return/training"}
_EVALUATIONS = 2  # after which all that a run logs has been logged once, as a rule


_EVENTS = "events.out.tfevents."


@WRITERS.register("tensorboard")
class TensorBoard(Writer):
    """Events in the run's directory."""

    pictures = True

    def __init__(self, directory: Path, resume_at: int | None, position: int) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter  # lazily: it takes a while

        _put_behind(directory, int(time.time()))
        self._board = SummaryWriter(str(directory), purge_step=0 if resume_at is None else resume_at + 1)
        self._folder = directory.parent.name
        self._seen: dict[str, int] | None = {}  # tags and how often they came, until the charts are laid out

    def begin(self, settings: dict[str, Any]) -> None:
        """Fill the tabs TEXT and HPARAMS."""
        from torch.utils.tensorboard.summary import hparams

        self._board.add_text("config", f"```yaml\n{yaml.safe_dump(json.loads(json.dumps(settings)))}```")
        named = {part.partition("=")[0] for part in self._folder.split("+")[1:]}
        flat = {  # what TensorBoard cannot show becomes text
            key: value if isinstance(value, bool | int | float | str) else str(value)
            for key, value in dotted(settings).items()
            if key in {*HPARAMS, *named} and not isinstance(value, dict)
        }
        for summary in hparams(flat, {"eval/return": 0.0}):  # add_hparams would make a stray sub-run
            self._board._get_file_writer().add_summary(summary)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
            if name in FIRST:
                self._board.add_scalar(FIRST[name], value, step)
            if self._seen is not None:
                self._seen[name] = self._seen.get(name, 0) + 1
        if self._seen is not None and self._seen.get("eval/return", 0) >= _EVALUATIONS:
            self._lay_out()

    def _lay_out(self) -> None:
        """Fill the tab CUSTOM SCALARS with charts of what was logged. TensorBoard takes the first layout."""
        if self._seen:
            self._board.add_custom_scalars(layout(self._seen))
        self._seen = None

    def histogram(self, step: int, name: str, values: NDArray[Any]) -> None:
        self._board.add_histogram(name, values, step)

    def image(self, step: int, name: str, image: NDArray[Any]) -> None:
        self._board.add_image(name, image, step, dataformats="HWC")

    def video(self, step: int, name: str, gif: bytes, size: tuple[int, int]) -> None:
        """Show a GIF; torch's own add_video needs an old moviepy."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        image = Summary.Image(width=size[0], height=size[1], colorspace=3, encoded_image_string=gif)
        summary = Summary(value=[Summary.Value(tag=name, image=image)])
        self._board._get_file_writer().add_summary(summary, step)

    def close(self) -> None:
        self._lay_out()
        self._board.close()


def _put_behind(directory: Path, now: int) -> None:
    """Let earlier sessions' files come before one that begins `now`, whatever clocks have said.

    TensorBoard reads files in the order of their names, which begin with the time; where it is not the order
    of the sessions, steps that a resumed run has written anew would be shown from the session before.
    """
    files = sorted(directory.glob(f"{_EVENTS}*"))
    times = [file.name.removeprefix(_EVENTS).split(".", 1) for file in files]
    if not files or not all(part[0].isdigit() for part in times) or int(times[-1][0]) < now:
        return
    for i, (file, (_, rest)) in enumerate(zip(files, times, strict=True)):
        file.rename(file.with_name(f"{_EVENTS}{now - len(files) + i:010d}.{rest}"))

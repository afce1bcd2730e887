"""What a user sees while a run goes on: a live bar on a terminal, plain lines elsewhere."""

import sys
from time import perf_counter
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn
from rich.progress import Progress as Bar
from rich.table import Column

PLAIN_INTERVAL = 10.0  # seconds between plain lines
BAR_INTERVAL = 0.2


class Progress:
    """Step, return, steps/s, updates/s and ETA.

    Args:
        total, start: environment steps of the run, and where it goes on. repeat: frames of each.
    """

    def __init__(
        self, total: int, start: int, updates: int, stream: TextIO | None = None, repeat: int = 1
    ) -> None:
        self._repeat = repeat
        self._stream = stream or sys.stdout
        self._total, self._start, self._updates = total, start, updates
        self._begin = self._shown = perf_counter()
        self._last = -1  # step of the last plain line
        self._episode: float | None = None
        self._evaluation: float | None = None
        self._bar: Bar | None = None
        self._task = TaskID(0)
        if self._stream.isatty():
            self._bar = Bar(
                SpinnerColumn(),
                BarColumn(bar_width=12),
                TextColumn("{task.description}", table_column=Column()),  # which wraps: nothing is cut
                console=Console(file=self._stream),
                transient=True,
            )
            self._task = self._bar.add_task("starting", total=total, completed=start)
            self._bar.start()

    def episode(self, score: float) -> None:
        self._episode = score

    def evaluation(self, step: int, mean: float, low: float, high: float, episodes: int) -> None:
        """Show an evaluation in a line that stays: mean return and the ends of its 95 % interval."""
        self._evaluation = mean
        text = f"step {step}: evaluation {mean:.1f} [{low:.1f}, {high:.1f}] over {episodes} episodes"
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=self._stream, flush=True)

    def show(self, step: int, updates: int, force: bool = False) -> None:
        """Refresh what is shown, at most every few moments unless `force`."""
        now = perf_counter()
        interval = BAR_INTERVAL if self._bar is not None else PLAIN_INTERVAL
        if now - self._shown < interval and not force:
            return
        self._shown = now
        if step == self._last and self._bar is None:
            return
        self._last = step
        text = self.line(step, updates, now - self._begin)
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=text)
        else:
            print(text, file=self._stream, flush=True)

    def evaluating(self, step: int, limit: int) -> None:
        """Show, now and then, how far an evaluation is that takes long."""
        now = perf_counter()
        if now - self._shown < (BAR_INTERVAL if self._bar is not None else PLAIN_INTERVAL):
            return
        self._shown = now
        text = f"evaluating {step:,}/{limit:,}"
        if self._bar is not None:
            self._bar.update(self._task, description=text)
        else:
            print(text, file=self._stream, flush=True)

    def line(self, step: int, updates: int, seconds: float) -> str:
        rate = (step - self._start) / max(seconds, 1e-9)
        speed = (updates - self._updates) / max(seconds, 1e-9)
        left = (self._total - step) / rate if rate > 0 else float("inf")
        score = "–" if self._episode is None else f"{self._episode:.1f}"
        evaluation = "–" if self._evaluation is None else f"{self._evaluation:.1f}"
        frames = f" ({step * self._repeat} frames)" if self._repeat > 1 else ""
        return (
            f"step {step}/{self._total}{frames} · return {score} · evaluation {evaluation} · "
            f"{rate:.0f} steps/s · {speed:.1f} updates/s · ETA {duration(left)}"
        )

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def duration(seconds: float) -> str:
    """Return a duration as '–' (infinite), '42 s', '3:05 min' or '2:10 h'."""
    if seconds == float("inf"):
        return "–"
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60}:{total % 60:02d} min"
    return f"{total // 3600}:{total % 3600 // 60:02d} h"

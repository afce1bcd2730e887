"""Where the time goes."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from time import perf_counter

Watch = Callable[[str], AbstractContextManager[None]]


def no_watch(part: str) -> AbstractContextManager[None]:
    """A watch that takes no time."""
    return nullcontext()


class Stopwatch:
    """Seconds spent per part since the last `reset`."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        begin = perf_counter()
        try:
            yield
        finally:
            self.seconds[part] += perf_counter() - begin

    def reset(self) -> None:
        self.seconds.clear()

"""Where the runs of a sweep go. Runs do not know it: the same run may be made anywhere."""

from pathlib import Path
from typing import Annotated, Any, Protocol

from pydantic import Field

from qdreamer.agents.sweeps.sweep import Launch
from qdreamer.configs.registry import PartConfig, Registry
from qdreamer.configs.schema import Int, settings


@settings
class LauncherConfig(PartConfig):
    """What every launcher has."""

    jobs: Int = Field(ge=1)  # queued or running at a time


class MakesLaunch(Protocol):
    """What is registered."""

    def __call__(self, config: Any, runs: Path) -> Launch:
        """The function that starts a run; `runs` is where all of them are kept."""
        ...


LAUNCHERS: Registry[MakesLaunch] = Registry("launchers", "qdreamer.agents.sweeps", "local")


@settings
class SweepConfig:
    """configs/sweep.yaml."""

    launcher: Annotated[LauncherConfig, LAUNCHERS]

"""What every sampler is registered with. Values live in configs/replay."""

from typing import Any

from pydantic import Field

from qdreamer.agents.replay.sampler import Sampler
from qdreamer.configs.registry import PartConfig, Registry
from qdreamer.configs.schema import Bool, Int, settings
from qdreamer.quantum.circuits.backend import Backend
from qdreamer.quantum.config import QuantumConfig
from qdreamer.quantum.jobs.access import CircuitAccess
from qdreamer.quantum.jobs.dry_run import Planned


@settings
class ReplayConfig(PartConfig):
    """What every sampler's settings hold and offer."""

    capacity: Int = Field(ge=2)  # rows over all environments
    mapped: Bool  # observations in a file of the run directory instead of in memory

    @property
    def measured(self) -> str | None:
        """The signal (`signals.SIGNALS`) that the learner measures on sequences, if the sampler uses one."""
        return None

    def sends_jobs(self, quantum: QuantumConfig) -> bool:
        """True when draws cost jobs on the backend of `quantum`."""
        return False

    def check(self, root: Any) -> None:
        rows, wanted = self.capacity // root.env.num_envs, root.train.batch_length + 1
        if rows < wanted:
            raise ValueError(
                f"replay.capacity={self.capacity} leaves {rows} rows for each of "
                f"env.num_envs={root.env.num_envs}: at least train.batch_length + 1 = {wanted} are needed"
            )

    def check_here(self, root: Any) -> None:
        """Raises ValueError or CredentialsError if circuits that it needs cannot be run on this machine."""

    def planned(self, root: Any, backend: Backend) -> list[Planned]:
        """The jobs that it submits in the whole run `root`, for a dry run."""
        return []


SAMPLERS: Registry[type[Sampler]] = Registry("replay", "qdreamer.agents.replay", "uniform")


def make_sampler(
    config: ReplayConfig, num_envs: int, length: int, seed: int, circuits: CircuitAccess
) -> Sampler:
    """The sampler called `config.name`."""
    return SAMPLERS[config.name].part.make(config, num_envs, length, seed, circuits)

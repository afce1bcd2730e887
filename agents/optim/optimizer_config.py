"""What every optimizer is registered with. Values live in configs/optimizer."""

from typing import Any, Protocol

from torch.optim import Optimizer

from qdreamer.agents.dreamer import Dreamer
from qdreamer.agents.optim.optimizer import AgentOptimizer, adapt
from qdreamer.configs.registry import PartConfig, Registry
from qdreamer.configs.schema import settings
from qdreamer.quantum.circuits.backend import Backend
from qdreamer.quantum.jobs.access import CircuitAccess
from qdreamer.quantum.jobs.dry_run import Planned


@settings
class OptimizerConfig(PartConfig):
    """What every optimizer's settings offer."""

    def check_here(self, root: Any) -> None:
        """Raises ValueError or CredentialsError if circuits that it needs cannot be run on this machine."""

    def planned(self, root: Any, backend: Backend) -> list[Planned]:
        """The jobs that it submits in the whole run `root`, for a dry run."""
        return []


class MakesOptimizer(Protocol):
    """What is registered: a class with this method."""

    def make(self, config: Any, agent: Dreamer, seed: int, circuits: CircuitAccess) -> Optimizer:
        """The optimizer of all of the agent's trainable parameters: any of torch's, or an AgentOptimizer."""
        ...


OPTIMIZERS: Registry[MakesOptimizer] = Registry("optimizers", "qdreamer.agents.optim", "laprop")


def make_optimizer(
    config: OptimizerConfig, agent: Dreamer, seed: int, circuits: CircuitAccess
) -> AgentOptimizer:
    """The optimizer called `config.name`."""
    return adapt(OPTIMIZERS[config.name].part.make(config, agent, seed, circuits))

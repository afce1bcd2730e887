"""What the learner asks of an optimizer, whichever it is, and what every optimizer is registered with."""

from collections.abc import Callable
from inspect import unwrap
from typing import Any, Protocol

from torch import Tensor
from torch.optim import Optimizer

from qdreamer.agents.dreamer import Dreamer
from qdreamer.configs.registry import PartConfig, Registry
from qdreamer.configs.schema import settings
from qdreamer.quantum.circuits.backend import Backend
from qdreamer.quantum.jobs.access import CircuitAccess
from qdreamer.quantum.jobs.dry_run import Planned

Objective = Callable[[], Tensor]
"""The loss (), differentiable, at whatever the weights are when it is called."""


class LocalObjective(Protocol):
    """Losses of the parameters that are searched over, to be asked for at the present weights θ₀.

    Each is an `Objective`: it may then be called with the weights elsewhere, near θ₀. The gradient that the
    parameters hold may be of more than that: in a Dreamer, of the replayed value loss as well.
    """

    def full_batch(self) -> Objective:
        """Return the loss on the update's own batch: its gradient at θ₀ is the search's."""

    def sub_batch(self, rows: int) -> Objective | None:
        """Return the loss on the batch's first `rows` sequences, for the curvature; None if these are all."""

    def fresh(self, rows: int, seed: int) -> tuple[Tensor, Objective]:
        """Return the loss on `rows` sequences drawn anew: () at θ₀, and to be called with other weights.

        The same data for the same seed.
        """


Landscape = Callable[[], LocalObjective]
"""Makes the losses around the present weights for an optimizer that wants to see them."""


class AgentOptimizer(Optimizer):
    """An optimizer of torch that may ask for the losses around the weights before its step."""

    # torch wraps these four to keep them from its compiler, for which the first call of any imports that
    # compiler: as long as importing torch itself. No optimizer is compiled here.
    add_param_group = unwrap(Optimizer.add_param_group)
    zero_grad = unwrap(Optimizer.zero_grad)
    state_dict = unwrap(Optimizer.state_dict)
    load_state_dict = unwrap(Optimizer.load_state_dict)

    def step(  # type: ignore[override]
        self, closure: Callable[[], float] | None = None, landscape: Landscape | None = None
    ) -> float | None:
        """Take one step. `landscape` belongs to the weights before it."""
        raise NotImplementedError

    def metrics(self) -> dict[str, float]:
        """Return scalars for the log, over the updates since the last call."""
        return {}


class WrappedOptimizer(AgentOptimizer):
    """Any optimizer of torch, which ignores the losses around the weights.

    Parameter groups and state are those of `base`, so that schedulers reach it through either.
    """

    def __init__(self, base: Optimizer) -> None:
        self.base = base
        super().__init__(base.param_groups, base.defaults)
        self._share()

    def _share(self) -> None:
        self.param_groups, self.state = self.base.param_groups, self.base.state

    def step(  # type: ignore[override]
        self, closure: Callable[[], float] | None = None, landscape: Landscape | None = None
    ) -> float | None:
        return self.base.step(closure)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if self.param_groups is self.base.param_groups:
            self.base.add_param_group(param_group)
        else:  # the base's own groups, while this is made
            super().add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        return self.base.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.base.load_state_dict(state_dict)
        self._share()


@settings
class OptimizerConfig(PartConfig):
    """What every optimizer's settings offer."""

    def check_here(self, root: Any) -> None:
        """Raises ValueError or CredentialsError if circuits that it needs cannot be run on this machine."""

    def planned(self, root: Any, backend: Backend) -> list[Planned]:
        """Return the jobs that it submits in the whole run `root`, for a dry run."""
        return []


class MakesOptimizer(Protocol):
    """What is registered: a class with this method."""

    def make(self, config: Any, agent: Dreamer, seed: int, circuits: CircuitAccess) -> Optimizer:
        """Make the optimizer of all trainable parameters: any of torch's, or an AgentOptimizer."""


OPTIMIZERS: Registry[MakesOptimizer] = Registry("optimizers", "qdreamer.agents.optim", "laprop")


def adapt(optimizer: Optimizer) -> AgentOptimizer:
    """Return the optimizer itself if it answers what the learner asks, else wrapped so that it does."""
    return optimizer if isinstance(optimizer, AgentOptimizer) else WrappedOptimizer(optimizer)


def make_optimizer(
    config: OptimizerConfig, agent: Dreamer, seed: int, circuits: CircuitAccess
) -> AgentOptimizer:
    """Make the optimizer called `config.name`. Its values lie in configs/optimizer."""
    return adapt(OPTIMIZERS[config.name].part.make(config, agent, seed, circuits))

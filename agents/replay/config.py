"""What samplers are registered with, and the settings that they share. Values live in configs/replay."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from qdreamer.agents.replay.diversity.qubo import QuboConfig
from qdreamer.agents.replay.diversity.selection import SELECTIONS, Selection
from qdreamer.agents.replay.priorities import Priorities
from qdreamer.agents.replay.sampler import Sampler
from qdreamer.agents.replay.signals import SIGNALS
from qdreamer.agents.replay.transforms import TRANSFORMS
from qdreamer.configs.registry import PartConfig, Registry
from qdreamer.configs.schema import Float, Int, one_of, settings, show
from qdreamer.quantum.circuits.backend import Backend
from qdreamer.quantum.config import QuantumConfig
from qdreamer.quantum.jobs.access import CircuitAccess
from qdreamer.quantum.jobs.dry_run import Planned

Mapped = Annotated[
    Literal["auto", "true", "false"],
    BeforeValidator(lambda value: show(value) if isinstance(value, bool) else value),
]
MOST_CANDIDATES = 1024  # of a batch that is chosen from them: time and memory grow with their cube and square
Share = Annotated[Float, Field(ge=0.0, le=1.0)]


@settings
class ReplayConfig(PartConfig):
    """What every sampler's settings hold and offer."""

    capacity: Int = Field(ge=2)  # rows over all environments
    mapped: Mapped  # whether large entries lie in files of the run directory instead of in memory
    diverse: Annotated[str, SELECTIONS] = "none"  # how a batch is chosen among candidates
    candidates: Int = Field(default=3, ge=2, le=64)  # C, for each place in the batch
    qubo: QuboConfig = QuboConfig()  # of diverse=qubo
    initial: str | None = None  # a file of episodes or a run, whose rows are there from the beginning

    @property
    def times(self) -> int:
        """Candidates for each place in a batch."""
        return make_selection(self, 0).candidates(1)

    @property
    def measured(self) -> str | None:
        """The signal (`signals.SIGNALS`) that the learner measures on sequences, if the sampler uses one."""
        return None

    def sends_jobs(self, quantum: QuantumConfig) -> bool:
        """True when draws cost jobs on the backend of `quantum`."""
        return False

    def check(self, root: Any) -> None:
        if self.times * root.train.batch_size > MOST_CANDIDATES and self.times > 1:
            raise ValueError(
                f"replay.candidates={self.candidates} for train.batch_size={root.train.batch_size} are more "
                f"than {MOST_CANDIDATES:,}, all of which are compared with each other: use fewer"
            )
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


@settings
class PriorityConfig(ReplayConfig):
    """What prioritized and quantum replay share: how sequences are weighed."""

    signal: Annotated[str, one_of(lambda: SIGNALS)]
    transform: Annotated[str, TRANSFORMS]
    alpha: Float = Field(ge=0.0, le=4.0)  # exponent of power and rank
    offset: Float = Field(gt=0.0)  # of power and rotation: none is ever forgotten
    temperature: Float = Field(gt=0.0)  # of boltzmann, in deviations of the errors
    prepare: tuple[Annotated[Float, Field(gt=0.0)], Annotated[Float, Field(gt=0.0)]]  # ζ₁, ζ₂ of rotation
    depreciate: tuple[Annotated[Float, Field(ge=0.0)], Annotated[Float, Field(ge=0.0)]]  # its τ₁, τ₂
    bonus: Float = Field(ge=0.0)  # c of c·decay^visits, added to the weight
    decay: Float = Field(gt=0.0, le=1.0)
    beta: tuple[Share, Share]  # first and last
    beta_updates: Int = Field(ge=0)  # from the first to the last

    @property
    def measured(self) -> str | None:
        return self.signal

    def check(self, root: Any) -> None:
        super().check(root)
        first, last = self.beta
        if first != last and self.beta_updates == 0:
            raise ValueError(
                f"replay.beta=[{first:g},{last:g}] moves within replay.beta_updates=0 updates: "
                f"give it updates, or one value, as replay.beta=[{first:g},{first:g}]"
            )

    @property
    def annealing(self) -> int:
        """Updates over which beta moves."""
        return 0 if self.beta[0] == self.beta[1] else self.beta_updates

    def make_priorities(self, num_envs: int) -> Priorities:
        size = self.capacity // num_envs
        decay = self.decay if self.bonus else 1.0
        return Priorities(num_envs, size, TRANSFORMS[self.transform].part.make(self), self.bonus, decay)


SAMPLERS: Registry[type[Sampler]] = Registry("replay", "qdreamer.agents.replay", "uniform")


def make_sampler(
    config: ReplayConfig, num_envs: int, length: int, seed: int, circuits: CircuitAccess
) -> Sampler:
    """The sampler called `config.name`."""
    return SAMPLERS[config.name].part.make(config, num_envs, length, seed, circuits)


def make_selection(config: ReplayConfig, seed: int) -> Selection:
    """What chooses batches among candidates, called `config.diverse`."""
    return SELECTIONS[config.diverse].part.make(config, seed)

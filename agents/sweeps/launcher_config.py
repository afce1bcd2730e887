"""Where the runs of a sweep go. Runs do not know it: the same run may be made anywhere."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class LocalLauncher:
    """Processes on this machine."""

    name: str = field(metadata={"choices": ("local",)})
    jobs: int = field(metadata={"min": 1})  # at a time


@dataclass(frozen=True)
class ClusterLauncher:
    """Jobs through submitit, of Slurm or of its executor on this machine."""

    name: str = field(metadata={"choices": ("slurm", "submitit")})
    jobs: int = field(metadata={"min": 1})  # queued or running at a time
    minutes: int = field(metadata={"min": 1})  # of a job
    cpus: int = field(metadata={"min": 1})
    memory: float = field(metadata={"above": 0.0})  # GB
    gpus: int = field(metadata={"min": 0})
    partition: str | None
    account: str | None
    setup: tuple[str, ...]  # shell lines before the run


@dataclass(frozen=True)
class SweepConfig:
    """configs/sweep.yaml."""

    launcher: LocalLauncher | ClusterLauncher

"""Runs of a sweep as jobs of a Slurm cluster, through submitit (an extra: pip install -e '.[cluster]').

A job runs the same command as a terminal would. When Slurm takes its time away, the run saves, and the
job is queued again; the command resumes. A job waits while another process trains its run, and ends at
once if that has finished it: so nothing is trained twice, even if a sweep was killed and submits anew
what still waits in the queue. That rests on flock, which the shared file system must support.
"""

import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from qdreamer.agents.runs.lock import is_locked
from qdreamer.agents.sweeps.local_launcher import command, start
from qdreamer.agents.sweeps.sweep import LAUNCHERS, OUTPUT, Launch, LauncherConfig, Member, last_line
from qdreamer.configs.schema import ConfigError, Float, Int, settings

FOLDER = ".submitit"  # of scripts and logs, beside the runs
_PAUSE = 5.0  # seconds between looks at a lock
_SAVING = 60.0  # seconds for a run to save and leave


@settings
class ClusterConfig(LauncherConfig):
    """Jobs through submitit: of Slurm, or for trying out on this machine."""

    minutes: Int = Field(ge=1)  # of a job
    cpus: Int = Field(ge=1)
    memory: Float = Field(gt=0.0)  # GB
    gpus: Int = Field(ge=0)
    partition: str | None
    account: str | None
    setup: tuple[str, ...]  # shell lines before the run


@dataclass
class Training:
    """A run as a job executes it; submitit pickles this object."""

    arguments: list[str]
    directory: Path
    threads: int

    def __call__(self) -> int:
        """Run the command and return its exit code."""
        self._process: subprocess.Popen[bytes] | None = None
        while is_locked(self.directory):
            time.sleep(_PAUSE)
        self._process = start(self.arguments, self.directory, self.threads)
        return self._process.wait()

    def checkpoint(self) -> Any:
        """Save the run and queue it again: submitit calls this when the job's time is over."""
        from submitit.helpers import DelayedSubmission

        if self._process is not None:  # else it was still waiting for another process
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):  # its last checkpoint stands
                self._process.wait(_SAVING)
        return DelayedSubmission(Training(self.arguments, self.directory, self.threads))


@dataclass(frozen=True, eq=False)
class ClusterHandle:
    """A job of submitit, as a sweep handles it."""

    job: Any
    directory: Path

    def poll(self) -> int | None:
        """Return the run's exit code once the job has ended."""
        if not self.job.done():
            return None
        error = self.job.exception()
        if error is None:
            return int(self.job.result())
        with (self.directory / OUTPUT).open("a", encoding="utf-8") as output:
            output.write(f"\njob {self.job.job_id} ended: {last_line(error)}\n")
        return 1

    def terminate(self) -> None:
        """Cancel the job: the run saves at SIGTERM, which Slurm sends before it kills."""
        self.job.cancel()


@LAUNCHERS.register("submitit", ClusterConfig)
@LAUNCHERS.register("slurm", ClusterConfig)
def make_launch(config: ClusterConfig, runs: Path) -> Launch:
    """Return what starts runs as jobs. Raises ConfigError without submitit, or without Slurm here."""
    try:
        import submitit
    except ImportError as error:
        raise ConfigError(
            f"launcher={config.name} needs submitit: pip install 'qdreamer[cluster]', or -e '.[cluster]'"
        ) from error
    try:
        cluster = {"slurm": "slurm", "submitit": "local"}[config.name]
        executor = submitit.AutoExecutor(folder=runs / FOLDER, cluster=cluster)
    except RuntimeError as error:
        raise ConfigError(
            f"launcher={config.name}: there is no Slurm here (no sbatch); launcher=local runs on this machine"
        ) from error
    executor.update_parameters(**parameters(config))

    def launch(member: Member) -> ClusterHandle:
        member.directory.mkdir(parents=True, exist_ok=True)  # the handle may write there before the job
        training = Training(
            command(member), member.directory.absolute(), min(config.cpus, member.config.threads)
        )
        return ClusterHandle(executor.submit(training), member.directory)

    return launch


def parameters(config: ClusterConfig) -> dict[str, Any]:
    """Return the job's settings under submitit's names."""
    slurm = {"partition": config.partition, "account": config.account, "setup": list(config.setup)}
    return {
        "timeout_min": config.minutes,
        "cpus_per_task": config.cpus,
        "mem_gb": config.memory,
        "gpus_per_node": config.gpus,
        "name": "qdreamer",
        **{f"slurm_{key}": value for key, value in slurm.items() if value and config.name == "slurm"},
    }

"""Runs of a sweep as jobs of a Slurm cluster, through submitit (an extra: pip install -e '.[cluster]').

A job runs the same command as a terminal would. When Slurm takes its time away, the run saves, and the
job is queued again; the command resumes. A job waits while another process trains its run, and ends at
once if that has finished it: so nothing is trained twice, even if a sweep was killed and submits anew
what still waits in the queue. That rests on flock, which the shared file system must support.
"""

import os
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qdreamer.agents.runs.lock import is_locked
from qdreamer.agents.runs.orphan import VARIABLE
from qdreamer.agents.sweeps.launcher_config import ClusterLauncher
from qdreamer.agents.sweeps.local_launcher import command
from qdreamer.agents.sweeps.sweep import OUTPUT, Launch, Member
from qdreamer.configs.strict import ConfigError

FOLDER = ".submitit"  # of scripts and logs, beside the runs
_PAUSE = 5.0  # seconds between looks at a lock
_SAVING = 60.0  # seconds for a run to save and leave


@dataclass
class Training:
    """What a job executes; submitit pickles it."""

    arguments: list[str]
    directory: Path
    threads: int

    def __call__(self) -> int:
        """Run the command; its exit code."""
        self._process: subprocess.Popen[bytes] | None = None
        while is_locked(self.directory):
            time.sleep(_PAUSE)
        self.directory.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads), VARIABLE: str(os.getpid())}
        with (self.directory / OUTPUT).open("ab") as output:
            self._process = subprocess.Popen(
                self.arguments, stdout=output, stderr=subprocess.STDOUT, env=environment
            )
            return self._process.wait()

    def checkpoint(self) -> Any:
        """Called by submitit when the job's time is over: save, and queue again."""
        from submitit.helpers import DelayedSubmission

        if self._process is not None:  # else it was still waiting for another process
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):  # its last checkpoint stands
                self._process.wait(_SAVING)
        return DelayedSubmission(Training(self.arguments, self.directory, self.threads))


@dataclass(frozen=True, eq=False)
class ClusterHandle:
    """A job of submitit."""

    job: Any
    directory: Path

    def poll(self) -> int | None:
        if not self.job.done():
            return None
        error = self.job.exception()
        if error is None:
            return int(self.job.result())
        with (self.directory / OUTPUT).open("a", encoding="utf-8") as output:
            text = str(error).strip().splitlines() or [type(error).__name__]
            output.write(f"\njob {self.job.job_id} ended: {text[-1]}\n")
        return 1

    def stop(self) -> None:
        """The run saves at SIGTERM, which Slurm sends before it kills."""
        self.job.cancel()


def make_launch(config: ClusterLauncher, runs: Path) -> Launch:
    """Starts runs as jobs. Raises ConfigError if submitit is missing or Slurm not here."""
    try:
        import submitit
    except ImportError as error:
        raise ConfigError(f"launcher={config.name} needs submitit: pip install -e '.[cluster]'") from error
    kind = {"slurm": "slurm", "submitit": "local"}[config.name]
    try:
        executor = submitit.AutoExecutor(folder=runs / FOLDER, cluster=kind)
    except RuntimeError as error:
        raise ConfigError(
            f"launcher={config.name}: there is no Slurm here (no sbatch); launcher=local runs on this machine"
        ) from error
    executor.update_parameters(**parameters(config))

    def launch(member: Member) -> ClusterHandle:
        member.directory.mkdir(parents=True, exist_ok=True)
        training = Training(command(member), member.directory.absolute(), member.config.threads)
        return ClusterHandle(executor.submit(training), member.directory)

    return launch


def parameters(config: ClusterLauncher) -> dict[str, Any]:
    """As submitit calls them."""
    out: dict[str, Any] = {
        "timeout_min": config.minutes,
        "cpus_per_task": config.cpus,
        "mem_gb": config.memory,
        "gpus_per_node": config.gpus,
        "name": "qdreamer",
    }
    if config.name == "slurm":
        own = {"partition": config.partition, "account": config.account, "setup": list(config.setup)}
        out |= {f"slurm_{key}": value for key, value in own.items() if value}
    return out

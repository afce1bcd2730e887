"""MLflow (pip install 'qdreamer[mlflow]'). Without MLFLOW_TRACKING_URI all is kept beside the runs."""

import os
import time
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from qdreamer.agents.reporting.writers.writer import WRITERS, Writer
from qdreamer.configs.schema import ConfigError, dotted, show

FILE = "mlflow_run"  # the run's id there, in its directory
STORE = "mlflow.db"  # beside the runs of all environments
_BATCH = 100  # parameters that a server takes at once
_LONGEST = 500  # characters of a parameter


@WRITERS.register("mlflow")
class MLflow(Writer):
    """A run of an experiment that is called as the environment's folder.

    MLflow keeps what it was sent: steps after a checkpoint that a run goes on from are there twice, with the
    same values. Raises ConfigError without the library.
    """

    pictures = True

    def __init__(self, directory: Path, resume_at: int | None, position: int) -> None:
        try:
            import mlflow
        except ImportError as error:
            raise ConfigError(
                "logging.writers=[mlflow] needs mlflow: pip install 'qdreamer[mlflow]'"
            ) from error
        self._entities = mlflow.entities
        agent, env = directory.absolute().parent, directory.absolute().parent.parent
        store = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{env.parent / STORE}"
        self._client = mlflow.MlflowClient(tracking_uri=store)
        kept = directory / FILE
        if resume_at is not None and kept.exists():
            self._run = kept.read_text(encoding="utf-8")
            return
        found = self._client.get_experiment_by_name(env.name)
        experiment = found.experiment_id if found else self._client.create_experiment(env.name)
        name = f"{agent.name}/{directory.name}"
        self._run = self._client.create_run(experiment, run_name=name).info.run_id
        kept.write_text(self._run, encoding="utf-8")

    def begin(self, settings: dict[str, Any]) -> None:
        params = [
            self._entities.Param(key.replace("[", "."), show(value)[:_LONGEST])
            for key, value in dotted(settings).items()
            if not isinstance(value, dict)
        ]
        for i in range(0, len(params), _BATCH):
            self._client.log_batch(self._run, params=params[i : i + _BATCH])

    def scalars(self, step: int, values: dict[str, float]) -> None:
        now = int(time.time() * 1000)
        metrics = [self._entities.Metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def image(self, step: int, name: str, image: NDArray[Any]) -> None:
        self._client.log_image(self._run, image, artifact_file=f"{name}_{step}.png")

    def close(self) -> None:
        self._client.set_terminated(self._run)

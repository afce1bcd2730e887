"""The replay buffer by itself: rows in, sequences out, drawn by whichever sampler."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.cli.functions import argument_names
from qdreamer.agents.replay import storage
from qdreamer.agents.replay.config import make_sampler, make_selection
from qdreamer.agents.replay.sampler import Starts
from qdreamer.configs.schema import ConfigError
from qdreamer.envs.edge.guard import brief
from qdreamer.quantum.jobs.access import CircuitAccess

_ARGUMENTS = {
    "train.batch_length": "length", "env.num_envs": "num_envs", "replay=": "sampler=", "replay.": "",
    "backends=": "backend=", "quantum.": "",
}  # fmt: skip


class Replay(storage.Replay):
    """Rows of one or several environments in rings, and sequences of them.

    `add(env, rows)` appends a row (n, …) of each field to the rings of environments `env` (n,); `sample(B)`
    gives sequences, rows (B, T + 1, …) with the row before the start, and importance weights (B,);
    `update(sample.starts, errors)` tells the sampler what it draws by.

    Args:
        fields: name → shape and type of one row. capacity: rows over all environments. length: T.
        sampler: uniform, prioritized, curious, quantum, …, as `replay=…` takes them. num_envs: rings.
        backend: where its circuits run, as `quantum=…`. directory: where jobs of a device are kept.
        settings: of the sampler, as alpha=0.8.

    Raises ConfigError for unknown words and values; `add` ValueError for rows that are not of the fields,
    `update` for errors that are NaN, infinite, negative, or not one for each start.
    """

    def __init__(
        self,
        fields: Mapping[str, tuple[tuple[int, ...], Any]],
        capacity: int,
        length: int,
        sampler: str = "uniform",
        num_envs: int = 1,
        seed: int = 0,
        backend: str = "statevector",
        directory: str | Path | None = None,
        **settings: Any,
    ) -> None:
        chosen = {"capacity": capacity, **settings}
        kept = Path(directory) if directory else Path(tempfile.gettempdir()) / "qdreamer"
        if not isinstance(length, int) or length < 2:
            raise ConfigError(f"length={length} must be a whole number of at least 2")
        with argument_names(_ARGUMENTS):
            config = load_config(
                [f"replay={sampler}", f"quantum={backend}", f"env.num_envs={num_envs}", "train.batch_size=1",
                 f"train.batch_length={length}", "agent.imagination_starts=2", "optimizer=laprop",
                 *(f"replay.{key}={value}" for key, value in chosen.items())]
            )  # fmt: skip
            self.access = CircuitAccess.of(config.quantum, kept)
            made = make_sampler(config.replay, num_envs, length, seed, self.access)
        self._shapes = {name: tuple(shape) for name, (shape, _) in fields.items()}
        if config.replay.times > 1 and "stoch" not in fields:
            raise ConfigError(
                f"diverse={config.replay.diverse} compares sequences by their latents: fields need stoch, "
                "classes (S,) as bytes"
            )
        chosen_by = make_selection(config.replay, seed)
        super().__init__(capacity, num_envs, length, dict(fields), made, selection=chosen_by)

    def add(self, env: Any, rows: Mapping[str, Any]) -> None:
        """Append a row of each field, arrays (n, …) by name, to the rings of different environments (n,)."""
        at: NDArray[Any] = np.asarray(env)
        rings = len(self._added)
        if at.ndim != 1 or at.dtype.kind not in "iu" or len(np.unique(at)) < len(at):
            raise ValueError(
                f"env={env} must be numbers of different environments, as [0] or numpy.arange(n)"
            )
        if len(at) and not (at.min() >= 0 and at.max() < rings):
            raise ValueError(f"env={env} must be from 0 to {rings - 1}: num_envs is {rings}")
        if not isinstance(rows, Mapping) or self._shapes.keys() - rows.keys():
            raise ValueError(f"rows must be arrays by name, one for each of {', '.join(self._shapes)}")
        arrays = {name: np.asarray(rows[name]) for name in self._shapes}
        for name, shape in self._shapes.items():
            if arrays[name].shape != (wanted := (len(at), *shape)):
                raise ValueError(f"rows of {name} have the shape {arrays[name].shape}, not {wanted}")
        super().add(at.astype(np.int64), arrays)

    def update(self, starts: Starts, priorities: Any) -> None:
        """Tell the sampler the errors (B,) of drawn sequences. Raises ValueError for what are none."""
        errors = np.asarray(priorities)
        count = len(starts.env)
        if errors.shape != (count,) or errors.dtype.kind not in "biuf":
            raise ValueError(f"priorities are {brief(priorities)}, not {count} numbers, one for each start")
        wrong = np.flatnonzero(~(np.isfinite(errors) & (errors >= 0)))
        if len(wrong):
            raise ValueError(
                f"priorities[{wrong[0]}]={errors[wrong[0]]:g} must be a finite number of at least 0"
            )
        super().update(starts, errors.astype(np.float32))

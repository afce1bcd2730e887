"""The replay buffer by itself: rows in, sequences out, drawn by whichever sampler."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.replay import storage
from qdreamer.agents.replay.config import make_sampler
from qdreamer.quantum.jobs.access import CircuitAccess


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

    Raises ConfigError for unknown words and values.
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
        config = load_config(
            [f"replay={sampler}", f"quantum={backend}", f"env.num_envs={num_envs}", "train.batch_size=1",
             f"train.batch_length={length}", f"agent.imagination_starts={min(length, 2)}", "optimizer=laprop",
             *(f"replay.{key}={value}" for key, value in chosen.items())]
        )  # fmt: skip
        kept = Path(directory) if directory else Path(tempfile.gettempdir()) / "qdreamer"
        self.access = CircuitAccess.of(config.quantum, kept)
        made = make_sampler(config.replay, num_envs, length, seed, self.access)
        super().__init__(capacity, num_envs, length, dict(fields), made)

"""summary.json: what a run was made with and what it cost, for comparisons and sweeps.

`metrics.jsonl` stays the source of truth of what was learned; this file is written at the start and at
the end of every session, and holds nothing that training reads again.
"""

from dataclasses import asdict
from pathlib import Path

import torch

from qdreamer.agents.dreamer import Dreamer
from qdreamer.agents.runs.config import Config
from qdreamer.agents.runs.provenance import provenance
from qdreamer.agents.runs.run_directory import SUMMARY_NAME, read_summary
from qdreamer.configs.sealed_file import write_json
from qdreamer.quantum.jobs.budget import Spending

# Parts of a run's time that are spent on circuits and what surrounds them (time/… of the log): jobs of
# quantum replay, and updates in which the hybrid optimizer searched.
QUANTUM_PARTS = ("quantum", "search")


class Summary:
    """The file of one run.

    Args:
        step, steps: where this session begins and ends. What it runs with is added to the list of
            sessions, in place of those that began at a later step (the run went back to a checkpoint).
    """

    def __init__(self, directory: Path, step: int, steps: int) -> None:
        self._path = directory / SUMMARY_NAME
        self._sessions = [s for s in read_summary(directory).get("sessions", []) if s["step"] < step]
        if step < steps:
            self._sessions.append({"step": step, **provenance(), "threads": torch.get_num_threads()})

    def write(
        self,
        config: Config,
        agent: Dreamer,
        step: int,
        updates: int,
        seconds: float,
        parts: dict[str, float],
        spending: Spending,
    ) -> None:
        """Replace the file by what the run has cost so far, over all its sessions.

        Args:
            parts: seconds in each part of the loop.
        """
        values = {
            "finished": step >= config.steps,
            "step": step,
            "updates": updates,
            "seconds": seconds,
            "seconds_by_part": parts,
            "parameters": parameters(agent),
            "quantum": {
                **asdict(spending),
                "seconds": sum(parts.get(part, 0.0) for part in QUANTUM_PARTS),
                "backend": config.quantum.name,
                "device": config.quantum.device,
            },
            "sessions": self._sessions,
        }
        write_json(self._path, values)


def parameters(agent: Dreamer) -> dict[str, int]:
    """Count the numbers that are learned; `quantum` of them describe states and channels.

    These are photon numbers of coherent attention and damping of Born attention: parameters of modules that
    say `quantum = True`. Angles of circuits are not learned, so not counted.
    """
    parts = [module for module in agent.modules() if getattr(module, "quantum", False)]
    quantum = {id(p): p.numel() for module in parts for p in module.parameters()}
    total = sum(p.numel() for p in agent.trainable())
    return {"classical": total - sum(quantum.values()), "quantum": sum(quantum.values())}

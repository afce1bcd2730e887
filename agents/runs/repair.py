"""`--repair`: what is left of a damaged run becomes one that goes on."""

import sys
from pathlib import Path

from qdreamer.agents.reporting.writers.jsonl import FILE, sound_length
from qdreamer.agents.runs import checkpoint
from qdreamer.agents.runs.lock import exclusive


def repair(directory: Path) -> None:
    """Let the newest sound checkpoint go on behind the last sound line of the log.

    Lines that are lost stay lost, and one line says so. Raises CheckpointError, ConfigError.
    """
    if not checkpoint.exists(directory):
        return
    with exclusive(directory):
        state = checkpoint.restore(directory)
        positions, log = state["observer"]["log_offset"], directory / FILE
        wanted = positions.get("jsonl", 0)
        sound = sound_length(log, wanted)
        if sound == wanted:
            return
        log.touch()
        with log.open("r+b") as file:
            file.truncate(sound)
        positions["jsonl"] = sound
        checkpoint.rewrite(directory, state)
    print(f"repaired: {log} goes on behind byte {sound}; {wanted - sound} bytes are lost", file=sys.stderr)

"""Jobs in flight and what a run has used up, in one small file of the run directory.

Written atomically after every change, so a kill at any instant leaves the old or the new one, and a
restarted run finds the jobs that it paid for. Holds ids and numbers: no angles, no credentials.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from qdreamer.configs.sealed_file import read_json, write_json

FORMAT = 2
NAME = "quantum_jobs.json"


@dataclass
class JobEntry:
    """One job in flight: its id, who runs it, and whatever its owner wants to know later."""

    job_id: str
    backend: str
    shots: int  # over all circuits
    submitted: float  # seconds since the epoch
    tag: dict[str, Any] = field(default_factory=dict)  # plain JSON


class Journal:
    """The file's content. Without a directory nothing is kept."""

    def __init__(self, directory: Path | None) -> None:
        self._path = None if directory is None else directory / NAME
        self._lock = Lock()
        self.entries: dict[str, JobEntry] = {}
        self.shots = 0
        self.seconds = 0.0
        self.damaged = False
        self._read()

    def add(self, entry: JobEntry) -> None:
        with self._lock:
            self.entries[entry.job_id] = entry
            self._write(lasting=True)

    def remove(self, job_id: str) -> None:
        with self._lock:
            if self.entries.pop(job_id, None) is not None:
                self._write()

    def used(self, shots: int, seconds: float) -> None:
        """Record what the run has used so far, in all."""
        with self._lock:
            self.shots, self.seconds = shots, seconds
            self._write()

    def _read(self) -> None:
        if self._path is None or not self._path.exists():
            return
        try:
            content = read_json(self._path)
            if content["format"] != FORMAT:
                raise ValueError("another format")
            self.entries = {item["job_id"]: JobEntry(**item) for item in content["jobs"]}
            self.shots, self.seconds = int(content["shots"]), float(content["seconds"])
        except (ValueError, KeyError, TypeError):  # not ours, or damaged
            self.damaged = True
            self._path.replace(self._path.with_suffix(".damaged"))

    def _write(self, lasting: bool = False) -> None:
        """Replace the file; `lasting` waits for the disk, so that a power failure loses no job."""
        if self._path is None:
            return
        jobs = [asdict(entry) for entry in self.entries.values()]
        content = {"format": FORMAT, "shots": self.shots, "seconds": self.seconds, "jobs": jobs}
        write_json(self._path, content, lasting)

"""What circuits have cost, split by where they ran."""

from dataclasses import asdict, dataclass

from qdreamer.quantum.circuits.backend import Usage


@dataclass(frozen=True)
class Spending:
    """Circuits and shots of all jobs, and seconds of execution on simulators and on a device."""

    circuits: int = 0
    shots: int = 0
    simulator_seconds: float = 0.0
    qpu_seconds: float = 0.0

    def __add__(self, other: "Spending") -> "Spending":
        mine, others = asdict(self), asdict(other)
        return Spending(**{key: mine[key] + others[key] for key in mine})


def spending(usage: Usage, remote: bool) -> Spending:
    """Of one backend; `remote` says that it is a device and no simulator."""
    simulator, qpu = (0.0, usage.seconds) if remote else (usage.seconds, 0.0)
    return Spending(usage.circuits, usage.shots, simulator, qpu)

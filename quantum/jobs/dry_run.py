"""What a run would cost, before anything is spent."""

from collections.abc import Sequence
from dataclasses import dataclass

from qdreamer.quantum.circuits.backend import Backend, Task, device_estimate

JOB_SECONDS = 2.0  # assumed overhead of a job on a QPU
RESET_SECONDS = 250e-6  # IBM's default delay between shots


@dataclass(frozen=True, eq=False)
class Planned:
    """A kind of job that a run submits `calls` times; `task` is an example of its shape."""

    name: str
    task: Task
    shots: int
    calls: int


@dataclass(frozen=True)
class PlannedCost:
    """One planned job's figures; device figures are None for simulators."""

    name: str
    qubits: int
    circuits: int  # of one call
    calls: int
    shots: int  # of all calls
    two_qubit_gates: int
    depth: int | None = None
    fidelity: float | None = None
    seconds: float | None = None  # of QPU time, all calls


def cost_of(backend: Backend, job: Planned) -> PlannedCost:
    """Return a job's figures; transpiles its circuit for the backend's device, runs nothing."""
    circuit = job.task.circuit()
    per_call = job.task.rows * job.shots
    counts = circuit.qubits, job.task.rows, job.calls, job.calls * per_call
    estimate = device_estimate(backend, circuit)
    if estimate is None:
        return PlannedCost(job.name, *counts, circuit.two_qubit_gates)
    seconds = job.calls * (JOB_SECONDS + per_call * (RESET_SECONDS + estimate.seconds))
    figures = estimate.two_qubit_gates, estimate.depth, estimate.fidelity, seconds
    return PlannedCost(job.name, *counts, *figures)


def report(
    backend: Backend,
    device: str | None,
    plan: Sequence[Planned],
    budget_shots: int | None = None,
    budget_seconds: float | None = None,
) -> str:
    """Return the plan as a table with a line of totals, and a line for each budget that it exceeds."""
    where = backend.name if device is None else f"{backend.name} on {device}"
    rows = [cost_of(backend, job) for job in plan]
    lines = [
        f"dry run: {where}; nothing is submitted",
        f"{'job':<16}{'qubits':>7}{'circuits':>9}{'calls':>7}{'depth':>7}{'2-qubit':>8}{'fidelity':>9}"
        f"{'shots':>12}{'QPU s':>10}",
    ]
    for row in rows:
        fidelity = "–" if row.fidelity is None else f"{row.fidelity:.2f}"
        seconds = "–" if row.seconds is None else f"{row.seconds:.1f}"
        lines.append(
            f"{row.name:<16}{row.qubits:>7}{row.circuits:>9}{row.calls:>7}{row.depth or '–':>7}"
            f"{row.two_qubit_gates:>8}{fidelity:>9}{row.shots:>12}{seconds:>10}"
        )
    shots, total = sum(row.shots for row in rows), sum(row.seconds or 0.0 for row in rows)
    circuits, jobs = sum(row.circuits * row.calls for row in rows), sum(row.calls for row in rows)
    lines.append(f"in all {jobs} jobs, {circuits} circuits, {shots} shots, about {total:.1f} s of QPU time")
    if budget_shots is not None and shots > budget_shots:
        lines.append(f"exceeds quantum.budget_shots={budget_shots}: the rest will run on the simulator")
    if budget_seconds is not None and total > budget_seconds:
        lines.append(f"exceeds quantum.budget_seconds={budget_seconds:g}: the rest will run on the simulator")
    return "\n".join(lines)

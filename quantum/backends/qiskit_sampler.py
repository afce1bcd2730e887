"""One adapter for every Qiskit `BaseSamplerV2`: Aer, Aer with noise, IBM's devices and their fakes.

A circuit is translated and transpiled once per shape; its rows of angles go to the sampler as one
PUB. All tasks of a job that can share a sampler run in one call.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from qdreamer.quantum.backends.credentials import one_line
from qdreamer.quantum.circuits.backend import (
    BackendError,
    Job,
    JobLostError,
    JobTimeoutError,
    Measurement,
    Task,
    Usage,
    check_request,
)
from qdreamer.quantum.circuits.circuit import Circuit
from qdreamer.quantum.circuits.fidelity import CircuitEstimate, estimate
from qdreamer.quantum.circuits.readout import confusion_from

if TYPE_CHECKING:  # imported only where they are used: it takes seconds
    from qiskit.circuit import QuantumCircuit
    from qiskit.transpiler import Target
    from qiskit_aer.noise import NoiseModel

REGISTER = "meas"
CALIBRATION_SECONDS = 3600.0  # how long measured readout errors are used
CALIBRATION_SHOTS = 1024  # enough, however many shots are to be corrected
MAX_DENSITY = 9  # qubits up to which a density matrix beats one trajectory per shot
_CACHE = 64  # transpiled circuits


@dataclass(frozen=True, eq=False)
class Prepared:
    """A circuit as its device runs it. Circuits with equal keys share a sampler."""

    circuit: QuantumCircuit
    key: Hashable
    target: Target | None = None  # the device's data, where there is a device
    noise: NoiseModel | None = None  # where Aer simulates it

    def method(self, configured: str) -> str:
        """Return Aer's simulation method, which `automatic` leaves to us."""
        if configured != "automatic":
            return configured
        small = self.circuit.num_qubits <= MAX_DENSITY
        return "density_matrix" if self.noise is not None and small else "statevector"


class Engine(Protocol):
    """What differs between samplers."""

    def prepare(self, circuit: QuantumCircuit) -> Prepared:
        """Transpile the circuit."""

    def sampler(self, prepared: Prepared, seed: int) -> Any:
        """Return a new `BaseSamplerV2` for the circuits that have the key of this one."""


def translate(circuit: Circuit) -> QuantumCircuit:
    """Return the same circuit in Qiskit, its angles a ParameterVector, its qubits measured."""
    from qiskit.circuit import ParameterVector, QuantumCircuit

    out = QuantumCircuit(circuit.qubits)
    angles = ParameterVector("t", circuit.parameters)
    for gate in circuit.gates:
        angle = () if gate.parameter is None else (angles[gate.parameter],)
        getattr(out, gate.name)(*angle, *gate.qubits)
    out.measure_all()
    return out


def measured_qubits(circuit: QuantumCircuit) -> tuple[int, ...]:
    """Return the physical qubit behind each classical bit."""
    measured = [(*item.clbits, *item.qubits) for item in circuit.data if item.operation.name == "measure"]
    pairs = sorted((circuit.find_bit(bit).index, circuit.find_bit(qubit).index) for bit, qubit in measured)
    return tuple(qubit for _, qubit in pairs)


def calibration_circuits(circuit: QuantumCircuit) -> Iterator[QuantumCircuit]:
    """Yield |0…0⟩ and |1…1⟩ on the qubits that `circuit` measures, read in the same order."""
    for ones in (False, True):
        calibration = circuit.copy_empty_like()
        for bit, qubit in enumerate(measured_qubits(circuit)):
            if ones:
                calibration.x(qubit)
            calibration.measure(qubit, bit)
        calibration.global_phase = 0
        yield calibration


class QiskitSampler:
    """A backend from an `Engine`. `fetch` brings back the jobs of earlier processes, by id."""

    in_process = False

    def __init__(
        self, name: str, engine: Engine, mitigation: bool = False, fetch: Callable[[str], Any] | None = None
    ) -> None:
        import qiskit.circuit  # noqa: F401 - here, for good: first imported in a thread that ends, it crashes

        self.name = name
        self.remote = fetch is not None
        self.engine, self._mitigation, self._fetch = engine, mitigation, fetch
        self._lock = Lock()  # jobs are submitted from threads
        self._transpiled = lru_cache(maxsize=_CACHE)(lambda circuit: engine.prepare(translate(circuit)))
        self._confusion: dict[Hashable, tuple[float, int, Tensor]] = {}  # by qubits: when, shots, A

    def prepared(self, circuit: Circuit) -> Prepared:
        """Return the transpiled circuit, from the cache if its shape was seen before."""
        with self._lock:
            return self._transpiled(circuit)

    def estimate(self, circuit: Circuit) -> CircuitEstimate | None:
        """Return what the circuit costs on the device, after transpilation; None without a device."""
        prepared = self.prepared(circuit)
        return None if prepared.target is None else estimate(prepared.circuit, prepared.target)

    def submit(self, tasks: Sequence[Task], shots: int, seed: int) -> Job:
        check_request(tasks, shots)
        begin = monotonic()
        groups: dict[Hashable, list[tuple[int, Task, Prepared]]] = {}
        try:
            for t, task in enumerate(tasks):
                prepared = self.prepared(task.circuit())
                groups.setdefault(prepared.key, []).append((t, task, prepared))
            parts = [self._start(group, shots, seed + g) for g, group in enumerate(groups.values())]
        except Exception as error:
            raise BackendError(f"{self.name} refused a job: {one_line(error)}") from None
        return SamplerJob(self, parts, [task.rows for task in tasks], shots, begin)

    def collect(self, job_id: str) -> Job:
        if self._fetch is None:
            raise JobLostError(f"jobs of quantum={self.name} end with their process")
        try:
            job = self._fetch(job_id)
        except Exception as error:
            raise JobLostError(f"job {job_id} cannot be collected: {one_line(error)}") from None
        return SamplerJob(self, [_Part(job)], None, None, monotonic())

    def _start(self, group: list[tuple[int, Task, Prepared]], shots: int, seed: int) -> _Part:
        """Run tasks, each with its place in the job, in one call of a sampler."""
        pubs: list[Any] = []
        calibrations: list[Any] = []
        qubits: list[Hashable] = []
        new: list[Hashable] = []
        for _, task, prepared in group:
            values = np.ascontiguousarray(task.values().numpy())
            # Columns in the order of the transpiled circuit's parameters.
            columns = [parameter.index for parameter in prepared.circuit.parameters]
            pubs.append((prepared.circuit, values[:, columns], shots))
            where = prepared.key, measured_qubits(prepared.circuit)
            qubits.append(where)
            if self._mitigation and where not in new and not self._known(where, shots):
                new.append(where)
                calibrations += [(circuit, None, shots) for circuit in calibration_circuits(prepared.circuit)]
        job = self.engine.sampler(group[0][2], seed).run(pubs + calibrations)
        return _Part(job, [t for t, _, _ in group], qubits if self._mitigation else [], new)

    def _known(self, where: Hashable, shots: int) -> bool:
        """Return True if readout errors were measured lately, with no fewer shots than must be corrected."""
        when, spent, _ = self._confusion.get(where, (-np.inf, 0, None))
        return monotonic() - when < CALIBRATION_SECONDS and spent >= min(shots, CALIBRATION_SHOTS)

    def decode(
        self, parts: Sequence[_Part], results: Sequence[Any]
    ) -> tuple[list[Tensor], list[Tensor | None], Usage]:
        """Return bits and confusion matrices of all tasks, in the tasks' order, and the circuits and shots.

        Confusion matrices are kept for later jobs.
        """
        usage = Usage()
        bits: dict[int, Tensor] = {}
        confusion: dict[int, Tensor | None] = {}
        for part, result in zip(parts, results, strict=True):
            arrays = [_bits(pub) for pub in result]
            answers = [array for array in arrays if array.dim() == 3]
            calibrations = [array for array in arrays if array.dim() == 2]  # they have no rows
            for runs in (*answers, *(array.unsqueeze(0) for array in calibrations)):
                usage += Usage(len(runs), len(runs) * runs.shape[1])
            order = range(len(answers)) if part.tasks is None else part.tasks
            bits |= dict(zip(order, answers, strict=True))
            for k, where in enumerate(part.new):
                zeros, ones = calibrations[2 * k : 2 * k + 2]
                self._confusion[where] = monotonic(), len(zeros), confusion_from(zeros, ones)
            confusion |= {t: self._confusion[w][2] for t, w in zip(order, part.qubits, strict=False)}
        return [bits[t] for t in sorted(bits)], [confusion.get(t) for t in sorted(bits)], usage


@dataclass(frozen=True, eq=False)
class _Part:
    """One call of a sampler: its job, and the tasks in it (None: all that there are)."""

    job: Any
    tasks: Sequence[int] | None = None
    qubits: Sequence[Hashable] = ()  # of each task, with mitigation
    new: Sequence[Hashable] = ()  # those of them that it calibrates


@dataclass(frozen=True, eq=False)
class SamplerJob:
    """What a sampler runs. `rows` and `shots` are what was asked for, None if another process did."""

    backend: QiskitSampler
    parts: list[_Part]
    rows: list[int] | None
    shots: int | None
    begin: float

    @property
    def id(self) -> str:
        return str(self.parts[0].job.job_id()) if self.backend.remote else ""

    def result(self, timeout: float | None = None) -> Measurement:
        name = self.backend.name
        try:
            results = [_wait(part.job, timeout) for part in self.parts]
            bits, confusion, usage = self.backend.decode(self.parts, results)
        except Exception as error:
            kind = JobTimeoutError if "Timeout" in type(error).__name__ else BackendError
            raise kind(f"{name} failed: {one_line(error)}") from None
        if self.rows is not None and self.shots is not None:
            # Twirling rounds shots up to whole randomizations.
            shapes = [tuple(x.shape[:2]) for x in bits]
            if [r for r, _ in shapes] != self.rows or any(s < self.shots for _, s in shapes):
                raise BackendError(f"{name} returned (circuits, shots) {shapes}, not what was asked for")
            bits = [x[:, : self.shots] for x in bits]
        usage += _times(self.parts, monotonic() - self.begin, self.backend.remote)
        return Measurement(tuple(bits), usage, tuple(confusion))

    def cancel(self) -> None:
        for part in self.parts:
            with suppress(Exception):  # it has ended, or cannot be cancelled: nothing is lost
                part.job.cancel()


def _wait(job: Any, timeout: float | None) -> Any:
    """Wait for the result. Local jobs take no time limit; whoever waits in a thread sets one."""
    if timeout is not None and "timeout" in inspect.signature(job.result).parameters:
        return job.result(timeout=timeout)
    return job.result()


def _bits(pub: Any) -> Tensor:
    """Return bits (R, S, n) of a PUB's result, (S, n) if it had no parameters."""
    array = pub.data[REGISTER].to_bool_array(order="little")
    if array.size == 0:
        raise ValueError("empty counts")
    return torch.from_numpy(np.ascontiguousarray(array)).to(torch.uint8)


def _times(parts: Sequence[_Part], elapsed: float, remote: bool) -> Usage:
    """Return seconds of execution and in the queue; a service reports them, here the clock does."""
    if not remote:
        return Usage(seconds=elapsed)
    try:
        seconds = sum(float(part.job.usage() or 0.0) for part in parts)
        queue = 0.0
        for part in parts:
            stamps = part.job.metrics()["timestamps"]
            created, running = (datetime.fromisoformat(stamps[name]) for name in ("created", "running"))
            queue += (running - created).total_seconds()
    except Exception:  # not every service reports them
        return Usage(queue_seconds=elapsed)
    return Usage(seconds=seconds, queue_seconds=max(queue, 0.0))

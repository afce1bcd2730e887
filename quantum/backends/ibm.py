"""IBM Quantum through qiskit-ibm-runtime's executor sampler; a fake device runs the same code locally.

Credentials come from QISKIT_IBM_TOKEN, QISKIT_IBM_INSTANCE and QISKIT_IBM_CHANNEL or from the saved
account, never from a config.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from qdreamer.configs.schema import settings
from qdreamer.quantum.backends.credentials import one_line, protect
from qdreamer.quantum.backends.device import ReducedDevice, is_fake, transpile
from qdreamer.quantum.backends.qiskit_sampler import Prepared, QiskitSampler
from qdreamer.quantum.circuits.backend import BACKENDS, BackendError, CredentialsError
from qdreamer.quantum.config import QuantumConfig

if TYPE_CHECKING:  # imported only where it is used: it takes seconds
    from qiskit.circuit import QuantumCircuit

LEAST_BUSY = "least_busy"
_NO_ACCOUNT = (
    "quantum=ibm needs an IBM Quantum account: set QISKIT_IBM_TOKEN and QISKIT_IBM_INSTANCE, or save one "
    "with QiskitRuntimeService.save_account (docs/ibm.md); quantum.device=FakeGuadalupeV2 needs none"
)


@settings
class IBMConfig(QuantumConfig):
    """A device by name, or `least_busy`; a fake one runs here."""

    takes = frozenset({"device", "suppression", "mitigation"})
    fits_problems = True
    needs_device = LEAST_BUSY

    @property
    def remote(self) -> bool:
        return self.device is not None and not is_fake(self.device)


def connect() -> Any:
    """Open the runtime service. Raises CredentialsError or BackendError, each one line without secrets."""
    from qiskit_ibm_runtime import QiskitRuntimeService
    from qiskit_ibm_runtime.accounts import AccountManager, AccountNotFoundError, InvalidAccountError

    try:
        account = AccountManager.get()
        protect(getattr(account, "token", None))
    except Exception as error:
        why = "" if isinstance(error, AccountNotFoundError) else f" ({one_line(error)})"
        raise CredentialsError(f"{_NO_ACCOUNT}{why}") from None
    try:
        return QiskitRuntimeService()
    except (AccountNotFoundError, InvalidAccountError) as error:
        raise CredentialsError(f"{_NO_ACCOUNT} ({one_line(error)})") from None
    except Exception as error:
        kind = str(error).lower()
        if "401" in kind or "api key" in kind or "unauthorized" in kind or "login" in kind:
            raise CredentialsError(f"IBM Quantum refused the account ({one_line(error)})") from None
        raise BackendError(
            f"IBM Quantum cannot be reached ({one_line(error)}): check the network, or use quantum=aer"
        ) from None


def find_device(service: Any, name: str) -> Any:
    """Return a device by name, or the least busy one. Raises BackendError."""
    try:
        if name == LEAST_BUSY:
            return service.least_busy(operational=True, simulator=False)
        return service.backend(name)
    except Exception as error:
        raise BackendError(
            f"quantum.device={name} is not available to this account ({one_line(error)}): "
            f"use quantum.device={LEAST_BUSY}"
        ) from None


class ExecutorEngine:
    """The executor sampler on a device, which may be fake or Aer's own simulator."""

    def __init__(self, device: Any, config: QuantumConfig, local: bool) -> None:
        self.device, self._local = device, local
        self._level, self._decoupling = config.optimization_level, config.dynamical_decoupling
        self._twirling = config.twirling
        self._seconds = None if local else config.budget_seconds

    def prepare(self, circuit: QuantumCircuit) -> Prepared:
        transpiled = transpile(circuit, self.device, self._level)
        return Prepared(transpiled, None, self.device.target)

    def mode(self, prepared: Prepared) -> Any:
        """Return what the sampler runs such circuits on."""
        return self.device

    def sampler(self, prepared: Prepared, seed: int) -> Any:
        from qiskit_ibm_runtime.executor_sampler import SamplerV2

        sampler = SamplerV2(mode=self.mode(prepared))
        options = sampler.options
        options.dynamical_decoupling.enable = self._decoupling
        options.twirling.enable_gates = self._twirling
        options.twirling.enable_measure = self._twirling
        if self._local:
            options.simulator.seed_simulator = seed + 1  # 0 counts as no seed
        elif self._seconds is not None:
            # The service stops a job there; it refuses limits of less than a second.
            options.max_execution_time = max(1, int(self._seconds))
        return sampler


class FakeEngine(ExecutorEngine):
    """The executor sampler on a fake device, of which only the active qubits are simulated."""

    def __init__(self, name: str, config: QuantumConfig) -> None:
        self._reduced, self._method = ReducedDevice(name, config.optimization_level), config.method
        super().__init__(self._reduced.device, config, local=True)

    def prepare(self, circuit: QuantumCircuit) -> Prepared:
        return self._reduced.prepare(circuit)

    def mode(self, prepared: Prepared) -> Any:
        """Return Aer with the active qubits' gates, durations and errors."""
        from qiskit_aer import AerSimulator

        return AerSimulator(
            noise_model=prepared.noise,
            target=prepared.target,
            method=prepared.method(self._method),
            max_parallel_threads=torch.get_num_threads(),
        )


@BACKENDS.register("ibm", IBMConfig)
class IBM(QiskitSampler):
    """`quantum=ibm`. `device` replaces the configured one (tests run Aer's simulator this way).

    Raises CredentialsError or BackendError, before anything is run.
    """

    def __init__(self, config: QuantumConfig, device: Any = None) -> None:
        assert config.device is not None
        fetch = None
        engine: ExecutorEngine
        if device is not None:
            engine = ExecutorEngine(device, config, local=True)
        elif is_fake(config.device):
            engine = FakeEngine(config.device, config)
        else:
            service = connect()
            engine = ExecutorEngine(find_device(service, config.device), config, local=False)
            fetch = service.job
        super().__init__("ibm", engine, config.mitigation, fetch)

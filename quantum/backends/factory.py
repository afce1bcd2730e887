"""The configured backend, and what must hold before a run starts."""

from collections.abc import Callable

from qdreamer.quantum.backends.statevector import Statevector
from qdreamer.quantum.circuits.backend import BACKENDS, Backend, BackendError
from qdreamer.quantum.config import QuantumConfig


def make_backend(config: QuantumConfig) -> Backend:
    """Open the backend; only the chosen one's libraries are imported.

    Raises ValueError, CredentialsError or BackendError with one line that names the fix, so calling it
    before training is the check that training can use it.
    """
    return BACKENDS[config.name].part(config)


def open_backend(config: QuantumConfig, warn: Callable[[str], None]) -> Backend:
    """Open the backend, or with one warning the in-process simulator where a service cannot be reached.

    Settings and credentials that cannot work still raise, as in `make_backend`.
    """
    try:
        return make_backend(config)
    except BackendError as error:
        warn(f"{error}; quantum jobs run on the in-process simulator")
        return Statevector()

"""Making a problem small enough for a real device, or saying why it is not.

On the data of the best fake device at hand (`python -m benchmarks.qaoa devices`) 8 qubits at one layer
keep three quarters of their fidelity, and 12 qubits at three layers less than a tenth.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from qdreamer.quantum.circuits.fidelity import CircuitEstimate
from qdreamer.quantum.qaoa.ising import Ising

MAX_QUBITS = 8
MAX_LAYERS = 1
SHARES = (1.0, 0.75, 0.5, 0.25)  # of the couplings that are kept, the first that is good enough


class DeviceLimitError(ValueError):
    """A problem that a device cannot carry; one line with the estimated fidelity."""


@dataclass(frozen=True)
class Fit:
    """How a problem is cut to a device: layers, and the share of couplings in the circuit."""

    layers: int
    share: float
    fidelity: float | None  # None where nothing limits


def sparsified(ising: Ising, share: float) -> Ising:
    """Return the problem with a share of its couplings, the strongest; at least one.

    Ties in |J_ij| go to the smaller pair.
    """
    if share >= 1:
        return ising
    couplings = ising.J.flatten()
    count = max(1, round(share * int(couplings.count_nonzero())))
    strongest = torch.sort(couplings.abs(), descending=True, stable=True).indices[:count]
    kept = torch.zeros_like(couplings).index_copy(0, strongest, couplings[strongest])
    return Ising(ising.h, kept.view_as(ising.J), ising.constant)


def fit_to_device(
    ising: Ising,
    layers: int,
    estimate: Callable[[Ising, int], CircuitEstimate | None],
    min_fidelity: float,
    force: bool,
) -> Fit:
    """Choose one layer, and the largest share of couplings whose circuit keeps `min_fidelity`.

    `estimate(problem, layers)` transpiles for the device; None means that no device limits. With
    `force` nothing is cut. Raises DeviceLimitError for more than 8 qubits, or where a quarter of the
    couplings is still too much.
    """
    figures = estimate(ising, layers)
    if figures is None or force:
        return Fit(layers, 1.0, None if figures is None else figures.fidelity)
    n = ising.qubits
    if n > MAX_QUBITS:
        raise DeviceLimitError(
            f"{n} qubits at {layers} layers: estimated fidelity {figures.fidelity:.2g} with "
            f"{figures.two_qubit_gates} two-qubit gates; devices carry {MAX_QUBITS} qubits at "
            f"{MAX_LAYERS} layer, so use fewer qubits, quantum=statevector, or quantum.force=true"
        )
    layers = min(layers, MAX_LAYERS)
    for share in SHARES:
        cut = estimate(sparsified(ising, share), layers)
        fidelity = 1.0 if cut is None else cut.fidelity
        if fidelity >= min_fidelity:
            return Fit(layers, share, fidelity)
    raise DeviceLimitError(
        f"{n} qubits at {layers} layer with a quarter of the couplings: estimated fidelity "
        f"{fidelity:.2g} is below quantum.min_fidelity={min_fidelity}, so choose a better device, "
        "quantum=statevector, or quantum.force=true"
    )

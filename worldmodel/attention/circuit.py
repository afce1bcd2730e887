"""`circuit`: the overlaps of `born`, measured.

A query and a key are loaded as amplitudes of log₂ d qubits, the one after the other backwards, and all
qubits read 0 with probability ⟨φ(q)|φ(k)⟩² (`quantum.circuits.overlaps`). Who asks decides how:

    learning              a PennyLane QNode on a simulator: probabilities with gradients, through the
                          configured noise channels if there are any
    acting, evaluating    shots on `quantum=aer`, `aer_noisy` or `ibm`; the QNode with other backends
    imagining, maps       the closed form of `born`: thousands of futures a step

so a noisy agent imagines as if its circuits were perfect. Every pair of steps is a circuit: this is for
validation and study, with few short sequences; `born` gives the same numbers ten thousand times faster.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from qdreamer.configs.schema import Float, settings
from qdreamer.quantum.backends.factory import make_backend
from qdreamer.quantum.circuits.backend import Backend, run
from qdreamer.quantum.circuits.overlaps import OverlapTask, overlap_values, qubits_for
from qdreamer.quantum.config import QuantumConfig
from qdreamer.worldmodel.attention.born import LEAST_FLOOR, Born
from qdreamer.worldmodel.attention.config import ATTENTION, ScheduledConfig

SMALLEST = 1e-8  # amplitude that stands for smaller ones
ROWS = 4096  # circuits in one call


@settings
class CircuitConfig(ScheduledConfig):
    noise: Float = Field(ge=0.0, le=1.0)  # depolarizing, in training
    floor: Float = Field(ge=LEAST_FLOOR)  # depolarizing, of the queries

    def __post_init__(self) -> None:
        check_width("attention.head", self.head)

    def check(self, root: Any) -> None:
        """Overlaps must be measured as often as an agent asks for them."""
        check_width("sequence.head", root.sequence.head)
        if root.quantum.remote:
            device = root.quantum.device
            raise ValueError(
                f"attention=circuit asks at every step, which quantum.device={device} cannot answer: "
                "use quantum.device=FakeGuadalupeV2, or attention=born"
            )


@ATTENTION.register("circuit", CircuitConfig)
class Circuit(Born):
    """See the module's docstring. Real amplitudes, no decay: a window limits what is seen.

    Args:
        quantum: the backend, its shots and noise channels; None is analytic.
    Raises ValueError for a width that is no power of two, or what `Born` refuses.
    """

    linear = False

    def __init__(
        self,
        heads: int,
        width: int,
        noise: float = 0.0,
        floor: float = LEAST_FLOOR,
        quantum: QuantumConfig | None = None,
    ) -> None:
        check_width("attention.head", width)
        super().__init__(heads, width, noise, floor, overlaps=self._ask)
        self._quantum = quantum
        self._shots = quantum.shots if quantum is not None and quantum.samples else None
        self._noise = None if quantum is None or quantum.noise.is_noiseless else quantum.noise

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        """log κ by the closed form."""
        return self._kernel(self.encoding.overlaps, q, k).log()

    def _ask(self, q: Tensor, k: Tensor) -> Tensor:
        """Overlaps of encoded queries (…, N, d) with keys (…, M, d): (…, N, M)."""
        shape = (*q.shape[:-1], k.shape[-2])
        pairs = [x.expand(*shape, -1).flatten(0, -2) for x in (q.unsqueeze(-2), k.unsqueeze(-3))]
        queries, keys = (_loadable(x) for x in pairs)
        measured = torch.cat(
            [self._overlaps(a, b) for a, b in zip(queries.split(ROWS), keys.split(ROWS), strict=True)]
        )
        # Encoded vectors have length one, but for those that fade to zero.
        lengths = (pairs[0].square().sum(-1) * pairs[1].square().sum(-1)).detach()
        return measured.to(q).mul(lengths).view(shape)

    def _overlaps(self, queries: Tensor, keys: Tensor) -> Tensor:
        """⟨φ(q)|φ(k)⟩² (R,), float64, of the rows of (R, d) and (R, d)."""
        if self._shots is None or self.training:
            return self._node(overlap_values(queries, keys))[:, 0]
        seed = int(torch.randint(2**31 - 1000, ()))
        measurement = run(self._backend, [OverlapTask(queries, keys)], self._shots, seed)
        return OverlapTask.overlaps(measurement.bits[0], measurement.confusion[0])

    # Both are made when they are needed: imports take seconds.

    @cached_property
    def _node(self) -> Callable[[Tensor], Tensor]:
        """Probabilities (R, 2^n) of angles (R, P), with gradients."""
        from qdreamer.quantum.backends.pennylane_backend import overlap_node

        return overlap_node(qubits_for(self.width), self._noise)

    @cached_property
    def _backend(self) -> Backend:
        assert self._quantum is not None
        return make_backend(self._quantum)


def check_width(name: str, width: int) -> None:
    """Raises ValueError unless a circuit can load so many amplitudes."""
    if width < 2 or width & (width - 1):
        raise ValueError(f"{name}={width} must be a power of two for attention=circuit: 2, 4, 8, …")


def _loadable(x: Tensor) -> Tensor:
    """Vectors (R, d) on the CPU, float64, without zeros: angles of nothing have no gradient."""
    x = x.to("cpu", torch.float64)
    return x + SMALLEST * (x.abs() < SMALLEST)

"""QAOA states by direct simulation: diagonal phases and a mixer made of real matrix products.

The phase exp(−iγE) multiplies the state by precomputed energies' sines and cosines. The mixer
exp(iβX)^{⊗n} is D R D with D = diag(i^{|x|}), |x| the number of ones, and R a Kronecker power of the
real [[cos β, sin β], [sin β, −cos β]]: D is folded into the phases, and R acts on a few qubits at a
time as one real product on the real and imaginary parts (`quantum.qaoa.qaoa_state`). (After Lykov et al.
2309.04841, who apply the mixer qubit by qubit.)
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from qdreamer.quantum.circuits.sampling import draw
from qdreamer.quantum.qaoa.angles import Angles
from qdreamer.quantum.qaoa.ising import Ising, energies
from qdreamer.quantum.qaoa.qaoa_state import State, piece_qubits, power, product, tables

MAX_QUBITS = 24
_CHUNK = 2**22  # amplitudes of all rows that are simulated together


def _rotation(angle: Tensor) -> Tensor:
    """RY matrices (…, 2, 2) of angles (…,): [[cos θ/2, −sin θ/2], [sin θ/2, cos θ/2]]."""
    c, s = torch.cos(angle / 2), torch.sin(angle / 2)
    return torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], -2)


@dataclass(eq=False)
class Simulator:
    """States of one problem for any number of angle sets; energies are taken once.

    `dtype` is that of the parts of amplitudes: float32 (complex64) or float64. Raises ValueError for
    more than 24 qubits.
    """

    ising: Ising
    dtype: torch.dtype = torch.float32
    _above: Tensor = field(init=False, repr=False)  # (2^n,), energies above the lowest one
    _lowest: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.ising.qubits > MAX_QUBITS:
            raise ValueError(f"{self.ising.qubits} qubits are too many to simulate: at most {MAX_QUBITS}")
        # Phases count from the lowest energy: where amplitudes are large, phases are small and precise.
        table = energies(self.ising, self.dtype)
        self._lowest = table.min()
        self._above = table.sub_(self._lowest)

    @torch.no_grad()
    def _state(self, angles: Angles) -> State:
        """States of a few sets of angles but for `_last_phase`. The next call takes the same memory."""
        if angles.warm is not None:
            return self._warm_state(angles, angles.warm)
        n = self.ising.qubits
        gamma, beta = angles.gamma.to(self.dtype), angles.beta.double()  # (R, p)
        state = State(len(gamma), n, self.dtype)
        _, quarter, half = tables(n, self.dtype)
        for layer in range(angles.layers):
            c, s = torch.cos(beta[:, layer]), torch.sin(beta[:, layer])
            mixer = torch.stack([c, s, s, -c], -1).view(-1, 2, 2)
            # D of the mixer before, if there is one, and of this one.
            more = half if layer else quarter
            state.layer(
                power(mixer, n, self.dtype), gamma[:, layer, None], self._above, more, start=layer == 0
            )
        return state

    def _warm_state(self, angles: Angles, warm: Tensor) -> State:
        """As `_state`, from a product state: exp(−iβM) = RY(θ) exp(iβZ) RY(−θ) on every qubit."""
        n, rows = self.ising.qubits, len(angles.gamma)
        gamma, beta = angles.gamma.to(self.dtype), angles.beta.to(self.dtype)
        turn = _rotation(warm.double()).expand(rows, n, 2, 2)
        centred = tables(n, self.dtype)[0]  # Σz = −2(|x| − n/2)
        forward, back = (product(m, self.dtype) for m in (turn, turn.mT))
        state = State(rows, n, self.dtype)
        state.ground()
        state.layer(forward)
        for layer in range(angles.layers):
            state.layer(back, gamma[:, layer, None], self._above)
            state.layer(forward, 2 * beta[:, layer, None], centred)
        return state

    def _last_phase(self, angles: Angles) -> Tensor:
        """The phase (R, 2^n) or (R, 1) that no measurement sees.

        All amplitudes share p times γ·(lowest energy − constant).
        """
        offset = angles.gamma.double().sum(1, keepdim=True) * (float(self._lowest) - self.ising.constant)
        shared = (offset % (2 * math.pi)).to(self.dtype)
        return shared if angles.warm is not None else shared + tables(self.ising.qubits, self.dtype)[1]

    def _few(self, angles: Angles) -> Iterator[Angles]:
        """A few sets of angles at a time."""
        n = self.ising.qubits
        rows = max(1, _CHUNK >> n) if n == piece_qubits(n) else 1
        for gamma, beta in zip(angles.gamma.split(rows), angles.beta.split(rows), strict=True):
            yield Angles(gamma, beta, angles.warm)

    def amplitudes(self, angles: Angles) -> Tensor:
        """ψ (R, 2^n), complex, without the global phase of the problem's constant."""
        out = []
        for few in self._few(angles):
            re, im = self._state(few).parts.unbind(1)
            phase = self._last_phase(few)
            out.append(torch.complex(re, im) * torch.polar(torch.ones_like(phase), -phase))
        return torch.cat(out)

    def probabilities(self, angles: Angles) -> Tensor:
        """|ψ|² (R, 2^n)."""
        return torch.cat([torch.cat(list(self._state(few).pieces()), 1) for few in self._few(angles)])

    def expectation(self, angles: Angles) -> Tensor:
        """⟨E⟩ (R,)."""
        tables = self._above.split(2 ** piece_qubits(self.ising.qubits))
        means = []
        for few in self._few(angles):
            pieces = zip(self._state(few).pieces(), tables, strict=True)
            means.append(torch.stack([piece @ table for piece, table in pieces]).sum(0))
        return torch.cat(means) + self._lowest

    def sample(self, angles: Angles, shots: int, source: torch.Generator) -> Tensor:
        """Indices (R, S) of measured states."""
        parts = (torch.cat(list(self._state(few).pieces()), 1) for few in self._few(angles))
        return torch.cat([draw(part, shots, source) for part in parts])


def optimized(simulator: Simulator, start: Angles, steps: int) -> Angles:
    """A few steps downhill in ⟨E⟩ from one set of angles; never uphill.

    Each step takes the gradient by central differences, all of them in one batch, then the best of
    eight step lengths, again in one batch: 4p + 8 simulations.
    """
    layers = start.layers
    scales = torch.cat([start.gamma.abs().amax().expand(layers), start.beta.abs().amax().expand(layers)])
    scales = scales.clamp(min=1e-12)
    x = torch.cat([start.gamma[0], start.beta[0]]) / scales  # (2p,), of order 1

    def evaluate(points: Tensor) -> Tensor:
        points = points * scales
        return simulator.expectation(Angles(points[:, :layers], points[:, layers:], start.warm)).double()

    best = evaluate(x[None])[0]
    difference = 0.02
    lengths = 2.0 ** -torch.arange(8, dtype=torch.float64)
    offsets = torch.eye(2 * layers, dtype=torch.float64) * difference
    for _ in range(steps):
        values = evaluate(torch.cat([x + offsets, x - offsets]))
        gradient = (values[: 2 * layers] - values[2 * layers :]) / (2 * difference)
        norm = gradient.norm()
        if norm == 0:
            break
        points = x - 0.5 * lengths[:, None] * gradient / norm
        values = evaluate(points)
        lowest = values.argmin()
        if values[lowest] >= best:
            break
        x, best = points[lowest], values[lowest]
    x = x * scales
    return Angles(x[None, :layers], x[None, layers:], start.warm)

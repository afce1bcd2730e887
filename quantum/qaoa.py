"""QAOA states by direct simulation: diagonal phases and a mixer made of real matrix products.

The phase exp(−iγE) multiplies the state by precomputed energies' sines and cosines. The mixer
exp(iβX)^{⊗n} is D R D with D = diag(i^{|x|}), |x| the number of ones, and R a Kronecker power of the
real [[cos β, sin β], [sin β, −cos β]]: D is folded into the phases, and R acts on a few qubits at a
time as one real product on the real and imaginary parts. Each product takes the lowest bits and writes
them as the highest, so all bits come round without a copy. (After Lykov et al. 2309.04841, who apply
the mixer qubit by qubit.)
"""

import functools
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from quantum.angles import Angles
from quantum.ising import Ising, energies
from quantum.sampling import draw

MAX_QUBITS = 24
_BLOCK = 4  # qubits per product: 16×16 matrices are fastest
_CHUNK = 2**22  # amplitudes of all rows that are simulated together


def _blocks(n: int) -> list[int]:
    """Sizes of the groups of qubits, lowest first, as even as they can be."""
    count = max(1, math.ceil(n / _BLOCK))
    return [n // count + (k < n % count) for k in range(count)]


@functools.lru_cache(maxsize=4)
def _tables(n: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """|x| (2^n,), and the phases with exp(−i·phase) = i^{|x|} (D) and (−1)^{|x|} (D²).

    Both are kept small, so that sums with them keep their precision.
    """
    ones = torch.zeros(1, dtype=torch.uint8)
    for _ in range(n):
        ones = torch.cat([ones, ones + 1])
    quarter = (ones & 3).to(dtype) * (-math.pi / 2)
    return ones.to(dtype), quarter, (ones & 1).to(dtype) * math.pi


def _kron(matrices: Tensor) -> Tensor:
    """(R, k, 2, 2) → (R, 2^k, 2^k): the first matrix acts on the lowest bit."""
    out = matrices[:, 0]
    for k in range(1, matrices.shape[1]):
        size = 2 * out.shape[1]
        out = (matrices[:, k, :, None, :, None] * out[:, None, :, None, :]).reshape(-1, size, size)
    return out


def _power(matrix: Tensor, n: int) -> list[Tensor]:
    """(R, 2, 2) on each of n qubits, as one matrix per block."""
    widths = _blocks(n)
    kron = {width: _kron(matrix[:, None].expand(-1, width, 2, 2)) for width in set(widths)}
    return [kron[width] for width in widths]


def _product(matrices: Tensor) -> list[Tensor]:
    """(R, n, 2, 2), one for each qubit, as one matrix per block."""
    return [_kron(part) for part in matrices.split(_blocks(matrices.shape[1]), 1)]


_kept = threading.local()  # each thread's memory for the states of one shape
_KEEP = 2**26  # bytes: 21 qubits in float32


def _memory(rows: int, size: int, dtype: torch.dtype) -> Tensor:
    """(7, R, 2^n), the same memory as the last time if the shape is the same.

    Memory fresh from the system costs as much time as a layer.
    """
    memory: Tensor | None = getattr(_kept, "memory", None)
    if memory is None or memory.shape != (7, rows, size) or memory.dtype != dtype:
        memory = torch.empty(7, rows, size, dtype=dtype)
        _kept.memory = memory if memory.nbytes <= _KEEP else None
    return memory


class _State:
    """Real and imaginary parts (R, 2, 2^n) of states, and the memory to compute the next ones in.

    Only one at a time in a thread: the next one takes the same memory.
    """

    def __init__(self, rows: int, size: int, dtype: torch.dtype) -> None:
        memory = _memory(rows, size, dtype)
        self.parts, self._spare = memory[:4].view(2, rows, 2, size)
        self._cos, self._sin, self.phase = memory[4:]

    def turn(self, phase: Tensor) -> None:
        """Multiply by exp(−i·phase); phase (R, 2^n)."""
        cos, sin = torch.cos(phase, out=self._cos), torch.sin(phase, out=self._sin)
        re, im, out = self.parts[:, 0], self.parts[:, 1], self._spare
        torch.mul(re, cos, out=out[:, 0]).addcmul_(im, sin)
        torch.mul(im, cos, out=out[:, 1]).addcmul_(re, sin, value=-1)
        self.parts, self._spare = out, self.parts

    def start(self, phase: Tensor, amplitude: float) -> None:
        """The uniform state times exp(−i·phase)."""
        torch.cos(phase, out=self.parts[:, 0]).mul_(amplitude)
        torch.sin(phase, out=self.parts[:, 1]).mul_(-amplitude)

    def everywhere(self, blocks: list[Tensor]) -> None:
        """Real matrices (R, K, K), each on its block of qubits, lowest first.

        The block's bits, read as the lowest ones, are written as the highest.
        """
        rows, _, size = self.parts.shape
        for block in blocks:
            k = block.shape[-1]
            low = self.parts.view(2 * rows, size // k, k).transpose(1, 2)
            out = self._spare.view(2 * rows, k, size // k)
            torch.bmm(block.repeat_interleave(2, 0), low, out=out)
            self.parts, self._spare = self._spare, self.parts


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
    energies: Tensor = field(init=False)  # (2^n,)
    _phases: Tensor = field(init=False, repr=False)
    _lowest: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.ising.qubits > MAX_QUBITS:
            raise ValueError(f"{self.ising.qubits} qubits are too many to simulate: at most {MAX_QUBITS}")
        self.energies = energies(self.ising, self.dtype)
        # Phases count from the lowest energy: where amplitudes are large, phases are small and precise.
        self._lowest = self.energies.min()
        self._phases = self.energies - self._lowest

    @torch.no_grad()
    def _parts(self, angles: Angles, last_phase: bool) -> Tensor:
        """Real and imaginary parts (R, 2, 2^n) of the states.

        The constant of the problem, a global phase, is left out; so is, without `last_phase`, a phase
        of every basis state that no measurement sees. The next call writes to the same memory.
        """
        n, size = self.ising.qubits, len(self.energies)
        gamma, beta = angles.gamma.to(self.dtype), angles.beta.to(self.dtype)  # (R, p)
        if angles.warm is not None:
            return self._warm_parts(angles, last_phase)
        state = _State(len(gamma), size, self.dtype)
        _, quarter, half = _tables(n, self.dtype)
        for layer in range(angles.layers):
            phase = torch.mul(gamma[:, layer, None], self._phases, out=state.phase)
            if layer == 0:
                state.start(phase.add_(quarter), 2.0 ** (-n / 2))
            else:  # D of the mixer before, and of this one
                state.turn(phase.add_(half))
            c, s = torch.cos(beta[:, layer]), torch.sin(beta[:, layer])
            mixer = torch.stack([c, s, s, -c], -1).view(-1, 2, 2)
            state.everywhere(_power(mixer, n))
        if last_phase:
            state.turn(quarter + self._offset(angles))
        return state.parts

    def _offset(self, angles: Angles) -> Tensor:
        """The phase (R, 1) that all amplitudes share: p times γ·(lowest energy − constant)."""
        offset = angles.gamma.double().sum(1, keepdim=True) * (float(self._lowest) - self.ising.constant)
        return (offset % (2 * math.pi)).to(self.dtype)

    def _warm_parts(self, angles: Angles, last_phase: bool) -> Tensor:
        """As `_parts`, from a product state: exp(−iβM) = RY(θ) exp(iβZ) RY(−θ) on every qubit."""
        assert angles.warm is not None
        n, rows, size = self.ising.qubits, len(angles.gamma), len(self.energies)
        gamma, beta = angles.gamma.to(self.dtype), angles.beta.to(self.dtype)
        turn = _rotation(angles.warm.to(self.dtype)).expand(rows, n, 2, 2)
        ones = _tables(n, self.dtype)[0]
        forward, back = _product(turn), _product(turn.transpose(2, 3))
        state = _State(rows, size, self.dtype)
        state.parts.zero_()
        state.parts[:, 0, 0] = 1
        state.everywhere(forward)
        for layer in range(angles.layers):
            state.turn(torch.mul(gamma[:, layer, None], self._phases, out=state.phase))
            state.everywhere(back)
            # Σz = n − 2|x|; its part n is the same for all and comes last.
            state.turn(torch.mul(2 * beta[:, layer, None], ones, out=state.phase))
            state.everywhere(forward)
        if last_phase:
            spins = n * angles.beta.double().sum(1, keepdim=True) % (2 * math.pi)
            state.turn((self._offset(angles) - spins.to(self.dtype)).expand(rows, size))
        return state.parts

    def amplitudes(self, angles: Angles) -> Tensor:
        """ψ (R, 2^n), complex."""
        re, im = self._parts(angles, last_phase=True).unbind(1)
        return torch.complex(re, im)

    def probabilities(self, angles: Angles) -> Tensor:
        """|ψ|² (R, 2^n)."""
        return torch.cat([part.clone() for part in self._probabilities(angles)])

    def _probabilities(self, angles: Angles) -> Iterator[Tensor]:
        """|ψ|² of a few rows at a time; each part lives until the next one is asked for."""
        rows = max(1, _CHUNK // len(self.energies))
        gammas, betas = angles.gamma.split(rows), angles.beta.split(rows)
        for gamma, beta in zip(gammas, betas, strict=True):
            state = self._parts(Angles(gamma, beta, angles.warm), last_phase=False)
            yield state[:, 0].square_().addcmul_(state[:, 1], state[:, 1])

    def expectation(self, angles: Angles) -> Tensor:
        """⟨E⟩ (R,)."""
        return torch.cat([part @ self.energies for part in self._probabilities(angles)])

    def sample(self, angles: Angles, shots: int, source: torch.Generator) -> Tensor:
        """Indices (R, S) of measured states."""
        return torch.cat([draw(part, shots, source) for part in self._probabilities(angles)])


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

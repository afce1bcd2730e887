"""QAOA states by direct simulation: diagonal phases and a mixer made of real matrix products.

The phase exp(−iγE) multiplies the state by precomputed energies' sines and cosines. The mixer
exp(iβX)^{⊗n} is D R D with D = diag(i^{|x|}), |x| the number of ones, and R a Kronecker power of the
real [[cos β, sin β], [sin β, −cos β]]: D is folded into the phases, and R acts on a few qubits at a
time as one real product on the real and imaginary parts. (After Lykov et al. 2309.04841, who apply the
mixer qubit by qubit.)

States of n qubits are C pieces of L ≤ 2^16 amplitudes, which stay in the cache. A piece is turned and its
qubits are mixed, a few at a time: each product of a block of them takes the highest bits and writes them as
the lowest, so that all bits come round without a copy. The qubits that tell pieces apart are then mixed by
products over whole pieces.
"""

import functools
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from qdreamer.quantum.circuits.sampling import draw
from qdreamer.quantum.qaoa.ansatz import Angles
from qdreamer.quantum.qaoa.ising import Ising, energies, normalized

_CHUNK = 2**22  # amplitudes of all rows that are simulated together
_PIECE = 16  # qubits of a piece: what a layer does to it takes 1.8 MB
_BLOCK = 4  # qubits per product: 16×16 matrices are the fastest


def piece_qubits(n: int) -> int:
    """Return how many qubits lie within a piece of an n-qubit state."""
    return min(n, _PIECE)


def _widths(n: int) -> tuple[list[int], list[int]]:
    """Return the qubits of each product, lowest first: of those within a piece, and of those on the pieces.

    At most four in each, as even as can be.
    """

    def even(qubits: int) -> list[int]:
        count = math.ceil(qubits / _BLOCK)
        return [qubits // count + (k < qubits % count) for k in range(count)]

    return even(piece_qubits(n)), even(n - piece_qubits(n))


def _kron(matrices: Tensor) -> Tensor:
    """Return the Kronecker products (R, k, 2, 2) → (R, 2^k, 2^k): the first matrix acts on the lowest bit."""
    out = matrices[:, 0]
    for k in range(1, matrices.shape[1]):
        size = 2 * out.shape[1]
        out = (matrices[:, k, :, None, :, None] * out[:, None, :, None, :]).reshape(-1, size, size)
    return out


def product(matrices: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """Put matrices (R, n, 2, 2), float64, on one qubit each: one matrix per product.

    Matrices are rounded once, when they are whole: errors of a matrix add up over all its qubits.
    """
    within, over = _widths(matrices.shape[1])
    return [_kron(part).to(dtype) for part in matrices.split(within + over, 1)]


@functools.lru_cache(maxsize=4)
def tables(n: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Return |x| − n/2 (2^n,), and the phases with exp(−i·phase) = i^{|x|} (D) and (−1)^{|x|} (D²).

    All are kept small, so that products and sums with them keep their precision.
    """
    ones = torch.zeros(1, dtype=torch.uint8)
    for _ in range(n):
        ones = torch.cat([ones, ones + 1])
    quarter = (ones & 3).to(dtype) * (-math.pi / 2)
    return ones.to(dtype) - n / 2, quarter, (ones & 1).to(dtype) * math.pi


class State:
    """R states of n qubits; R = 1 where there are several pieces."""

    def __init__(self, rows: int, n: int, dtype: torch.dtype) -> None:
        low = piece_qubits(n)
        self._n, self._length, self._count = n, 2**low, 2 ** (n - low)
        self._parts = torch.empty(self._count, rows, 2, self._length, dtype=dtype)
        self._scratch = torch.empty(2, rows, 2, self._length, dtype=dtype)
        self._cos, self._sin, self._phase = torch.empty(3, rows, self._length, dtype=dtype)

    @property
    def parts(self) -> Tensor:
        """The real and imaginary parts (R, 2, 2^n)."""
        return self._parts.permute(1, 2, 0, 3).flatten(2)

    def ground(self) -> None:
        """Prepare |0…0⟩."""
        self._parts.zero_()
        self._parts[0, :, 0, 0] = 1

    def pieces(self) -> Iterator[Tensor]:
        """Yield |ψ|² of the pieces, (R, L) each, in order; the state is used up."""
        for piece in self._parts:
            re, im = piece[:, 0], piece[:, 1]
            yield re.square_().addcmul_(im, im)

    def probabilities(self) -> Tensor:
        """Return |ψ|² (R, 2^n); the state is used up."""
        return torch.cat(list(self.pieces()), 1)

    def layer(
        self,
        blocks: list[Tensor],
        phases: tuple[Tensor, Tensor] | None = None,
        more: Tensor | None = None,
        start: bool = False,
    ) -> None:
        """Multiply by exp(−i(factor·table + more)), then mix by `blocks`, of `product`.

        Args:
            phases: factor (R, 1) and table (2^n,). more: (2^n,).
            start: from the uniform state, whatever the state was.
        """
        low = len(_widths(self._n)[0])
        doubled = [block.repeat_interleave(2, 0) for block in blocks[:low]]
        for c in range(self._count):
            here = slice(c * self._length, (c + 1) * self._length)
            source = self._parts[c]  # (R, 2, L)
            if phases is None:
                self._scratch[0].copy_(source)
            else:
                factor, table = phases
                phase = torch.mul(factor, table[here], out=self._phase)
                self._turn(source, phase if more is None else phase.add_(more[here]), start)
            self._mix(doubled, source)
        below = 1
        for block in blocks[low:]:
            self._over(block, below)
            below *= block.shape[-1]

    def _turn(self, source: Tensor, phase: Tensor, start: bool) -> None:
        """Write a piece times exp(−i·phase) to the first scratch."""
        out = self._scratch[0]
        if start:
            amplitude = 2.0 ** (-self._n / 2)
            torch.cos(phase, out=out[:, 0]).mul_(amplitude)
            torch.sin(phase, out=out[:, 1]).mul_(-amplitude)
            return
        cos, sin = torch.cos(phase, out=self._cos), torch.sin(phase, out=self._sin)
        re, im = source[:, 0], source[:, 1]
        torch.mul(re, cos, out=out[:, 0]).addcmul_(im, sin)
        torch.mul(im, cos, out=out[:, 1]).addcmul_(re, sin, value=-1)

    def _mix(self, blocks: list[Tensor], target: Tensor) -> None:
        """Apply products (2R, K, K) to the first scratch; the last one writes to `target`."""
        source, other = self._scratch
        for j, block in enumerate(reversed(blocks)):
            rows, k, _ = block.shape
            high = source.view(rows, k, self._length // k).transpose(1, 2)
            out = target if j == len(blocks) - 1 else other
            torch.bmm(high, block.mT, out=out.view(rows, self._length // k, k))
            source, other = other, source

    def _over(self, block: Tensor, below: int) -> None:
        """Apply a product (1, K, K) to the bits of the pieces' numbers that count `below`, 2·`below`, …"""
        k = block.shape[-1]
        pieces = self._parts.view(self._count // (below * k), k, -1)
        self._parts = torch.bmm(block.expand(len(pieces), k, k), pieces).view_as(self._parts)


class Simulator:
    """States of one problem for any number of angle sets; energies are taken once.

    `dtype` is that of the parts of amplitudes: float32 (complex64) or float64. Raises ValueError for
    more than 24 qubits.
    """

    def __init__(self, ising: Ising, dtype: torch.dtype = torch.float32) -> None:
        self.ising, self.dtype = ising, dtype
        unit, self._power = normalized(ising)
        # Phases count from the lowest energy: where amplitudes are large, phases are small and precise.
        table = energies(unit, dtype)
        self._lowest = table.min()
        self._above = table.sub_(self._lowest)  # (2^n,)

    @torch.no_grad()
    def _state(self, angles: Angles) -> State:
        """Simulate a few sets of angles, but for a phase that no measurement sees: see `amplitudes`."""
        n, rows = self.ising.qubits, len(angles.gamma)
        gamma = (angles.gamma.double() * self._power).to(self.dtype)  # (R, p)
        beta = angles.beta.double()
        state = State(rows, n, self.dtype)
        centred, quarter, half = tables(n, self.dtype)
        if angles.warm is None:
            for layer in range(angles.layers):
                c, s = torch.cos(beta[:, layer]), torch.sin(beta[:, layer])
                one = torch.stack([c, s, s, -c], -1).view(-1, 1, 2, 2)
                mixer = product(one.expand(-1, n, 2, 2), self.dtype)
                # D of the mixer before, if there is one, and of this one.
                more = half if layer else quarter
                state.layer(mixer, (gamma[:, layer, None], self._above), more, start=layer == 0)
            return state
        # From a product state: exp(−iβM) = RY(θ) exp(iβZ) RY(−θ) on every qubit.
        c, s = torch.cos(angles.warm.double() / 2), torch.sin(angles.warm.double() / 2)
        rotation = torch.stack([c, -s, s, c], -1).view(n, 2, 2).expand(rows, n, 2, 2)  # RY(θ)
        forward, back = (product(m, self.dtype) for m in (rotation, rotation.mT))
        state.ground()
        state.layer(forward)
        beta = angles.beta.to(self.dtype)
        for layer in range(angles.layers):
            state.layer(back, (gamma[:, layer, None], self._above))
            state.layer(forward, (2 * beta[:, layer, None], centred))  # Σz = −2(|x| − n/2)
        return state

    def _states(self, angles: Angles) -> Iterator[tuple[Angles, State]]:
        """Yield a few sets of angles at a time, and their states."""
        n = self.ising.qubits
        rows = max(1, _CHUNK >> n) if n == piece_qubits(n) else 1
        for gamma, beta in zip(angles.gamma.split(rows), angles.beta.split(rows), strict=True):
            few = Angles(gamma, beta, angles.warm)
            yield few, self._state(few)

    def amplitudes(self, angles: Angles) -> Tensor:
        """Return ψ (R, 2^n), complex, without the global phase of the problem's constant."""
        out = []
        for few, state in self._states(angles):
            re, im = state.parts.unbind(1)
            # Phases were counted from the lowest energy, and the last mixer still lacks its D.
            offset = few.gamma.double().sum(1, keepdim=True) * (self._power * float(self._lowest))
            phase = (offset % (2 * math.pi)).to(self.dtype)
            if few.warm is None:
                phase = phase + tables(self.ising.qubits, self.dtype)[1]
            out.append(torch.complex(re, im) * torch.polar(torch.ones_like(phase), -phase))
        return torch.cat(out)

    def probabilities(self, angles: Angles) -> Tensor:
        """Return |ψ|² (R, 2^n)."""
        return torch.cat([state.probabilities() for _, state in self._states(angles)])

    def expectation(self, angles: Angles) -> Tensor:
        """Return ⟨E⟩ (R,), float64."""
        tables = self._above.split(2 ** piece_qubits(self.ising.qubits))
        means = [
            torch.stack([piece @ table for piece, table in zip(state.pieces(), tables, strict=True)]).sum(0)
            for _, state in self._states(angles)
        ]
        return self.ising.constant + self._power * (torch.cat(means).double() + self._lowest)

    def sample(self, angles: Angles, shots: int, source: torch.Generator) -> Tensor:
        """Draw indices (R, S) of measured states."""
        return torch.cat([draw(state.probabilities(), shots, source) for _, state in self._states(angles)])

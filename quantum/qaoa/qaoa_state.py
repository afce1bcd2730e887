"""Layers of QAOA on the real and imaginary parts of states, piece by piece, so that pieces stay in cache.

A layer turns every amplitude by a phase and mixes every qubit by a real 2×2 matrix (`quantum.qaoa.qaoa` says
why real). States of n qubits are C pieces of L ≤ 2^16 amplitudes. A piece is turned and its qubits are
mixed, a few at a time, while it is in the cache: each product of a block of them takes the highest bits
and writes them as the lowest, so that all bits come round without a copy. The qubits that tell pieces
apart are then mixed by products over whole pieces.
"""

import functools
import math
import threading
from collections.abc import Iterator

import torch
from torch import Tensor

_PIECE = 16  # qubits of a piece: what a layer does to it takes 1.8 MB
_BLOCK = 4  # qubits per product: 16×16 matrices are the fastest
_KEEP = 2**26  # bytes of memory that a thread keeps: 21 qubits in float32
_kept = threading.local()


def piece_qubits(n: int) -> int:
    """Qubits within a piece of an n-qubit state."""
    return min(n, _PIECE)


def _sizes(n: int) -> list[int]:
    """Groups of at most four of n qubits, lowest first, as even as they can be."""
    count = math.ceil(n / _BLOCK)
    return [n // count + (k < n % count) for k in range(count)]


def _widths(n: int) -> list[int]:
    """Qubits of each product, lowest first."""
    low = piece_qubits(n)
    return _sizes(low) + _sizes(n - low)


def _kron(matrices: Tensor) -> Tensor:
    """(R, k, 2, 2) → (R, 2^k, 2^k): the first matrix acts on the lowest bit."""
    out = matrices[:, 0]
    for k in range(1, matrices.shape[1]):
        size = 2 * out.shape[1]
        out = (matrices[:, k, :, None, :, None] * out[:, None, :, None, :]).reshape(-1, size, size)
    return out


def power(matrix: Tensor, n: int, dtype: torch.dtype) -> list[Tensor]:
    """(R, 2, 2), float64, on each of n qubits, as one matrix per product.

    Matrices are rounded once, when they are whole: errors of a matrix add up over all its qubits.
    """
    widths = _widths(n)
    kron = {width: _kron(matrix[:, None].expand(-1, width, 2, 2)).to(dtype) for width in set(widths)}
    return [kron[width] for width in widths]


def product(matrices: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """(R, n, 2, 2), float64, one for each qubit, as one matrix per product."""
    return [_kron(part).to(dtype) for part in matrices.split(_widths(matrices.shape[1]), 1)]


@functools.lru_cache(maxsize=4)
def tables(n: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """|x| − n/2 (2^n,), and the phases with exp(−i·phase) = i^{|x|} (D) and (−1)^{|x|} (D²).

    All are kept small, so that products and sums with them keep their precision.
    """
    ones = torch.zeros(1, dtype=torch.uint8)
    for _ in range(n):
        ones = torch.cat([ones, ones + 1])
    quarter = (ones & 3).to(dtype) * (-math.pi / 2)
    return ones.to(dtype) - n / 2, quarter, (ones & 1).to(dtype) * math.pi


def _memory(size: int, dtype: torch.dtype) -> Tensor:
    """(size,), the same memory as the last time if the size is the same.

    Memory fresh from the system costs as much time as a layer.
    """
    memory: Tensor | None = getattr(_kept, "memory", None)
    if memory is None or memory.numel() != size or memory.dtype != dtype:
        memory = torch.empty(size, dtype=dtype)
        _kept.memory = memory if memory.nbytes <= _KEEP else None
    return memory


class State:
    """R states of n qubits; R = 1 where there are several pieces. Only one at a time in a thread: the
    next one takes the same memory.
    """

    def __init__(self, rows: int, n: int, dtype: torch.dtype) -> None:
        low = piece_qubits(n)
        self._n, self._length, self._count = n, 2**low, 2 ** (n - low)
        if rows > 1 and self._count > 1:
            raise ValueError(f"{rows} states of {n} qubits do not fit in one piece each: take one at a time")
        piece, whole = rows * self._length, 2 * rows * 2**n
        spare = whole if self._count > 1 else 0
        memory = _memory(whole + spare + 7 * piece, dtype)
        shape = (self._count, rows, 2, self._length)
        self._parts, rest = memory[:whole].view(shape), memory[whole:]
        self._other = rest[:spare].view(shape) if spare else None
        self._scratch = rest[spare : spare + 4 * piece].view(2, rows, 2, self._length)
        self._cos, self._sin, self._phase = rest[spare + 4 * piece :].view(3, rows, self._length)

    @property
    def parts(self) -> Tensor:
        """Real and imaginary parts (R, 2, 2^n)."""
        return self._parts.permute(1, 2, 0, 3).flatten(2)

    def ground(self) -> None:
        """|0…0⟩."""
        self._parts.zero_()
        self._parts[0, :, 0, 0] = 1

    def pieces(self) -> Iterator[Tensor]:
        """|ψ|² of the pieces, (R, L) each, in order; the state is used up."""
        for piece in self._parts:
            re, im = piece[:, 0], piece[:, 1]
            yield re.square_().addcmul_(im, im)

    def layer(
        self,
        blocks: list[Tensor],
        factor: Tensor | None = None,
        table: Tensor | None = None,
        more: Tensor | None = None,
        start: bool = False,
    ) -> None:
        """Multiply by exp(−i(factor·table + more)), then mix by `blocks`, of `power` or `product`.

        Args:
            factor: (R, 1). table, more: (2^n,). Without a factor there are no phases.
            start: from the uniform state, whatever the state was.
        """
        low = len(_sizes(piece_qubits(self._n)))
        doubled = [block.repeat_interleave(2, 0) for block in blocks[:low]]
        for c in range(self._count):
            here = slice(c * self._length, (c + 1) * self._length)
            source = self._parts[c]  # (R, 2, L)
            if factor is not None:
                assert table is not None
                phase = torch.mul(factor, table[here], out=self._phase)
                if more is not None:
                    phase.add_(more[here])
                self._turn(source, phase, start)
            else:
                self._scratch[0].copy_(source)
            self._mix(doubled, source)
        below = 1
        for block in blocks[low:]:
            self._over(block, below)
            below *= block.shape[-1]

    def _turn(self, source: Tensor, phase: Tensor, start: bool) -> None:
        """The first scratch = a piece times exp(−i·phase)."""
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
        """Products (2R, K, K) on the first scratch, the last one written to `target`."""
        source, other = self._scratch
        for j, block in enumerate(reversed(blocks)):
            rows, k, _ = block.shape
            high = source.view(rows, k, self._length // k).transpose(1, 2)
            out = target if j == len(blocks) - 1 else other
            torch.bmm(high, block.mT, out=out.view(rows, self._length // k, k))
            source, other = other, source

    def _over(self, block: Tensor, below: int) -> None:
        """A product (1, K, K) on the bits of the pieces' numbers that count `below`, 2·`below`, …"""
        assert self._other is not None
        k = block.shape[-1]
        groups = self._count // (below * k)
        pieces = self._parts.view(groups, k, -1)
        torch.bmm(block.expand(groups, k, k), pieces, out=self._other.view(groups, k, -1))
        self._parts, self._other = self._other, self._parts

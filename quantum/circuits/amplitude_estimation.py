"""Amplitude estimation without phase estimation: maximum likelihood over Grover powers (Suzuki et al. 2020).

Each power m_k of Grover's iteration is run N_k times and found good h_k times; the angle that makes all of
this most likely,

    θ̂ = argmax Σ_k h_k ln P_k(θ) + (N_k − h_k) ln(1 − P_k(θ)),      P_k = sin²((2m_k + 1)θ),

has an error that falls with the number of uses of A, Σ N_k (2m_k + 1), nearly as fast as its inverse when
powers double (arXiv:1904.10246), where counting alone has the square root. Depolarizing noise that leaves κ
of the coherence at each use of A, and κ^c at each of Q, turns P_k into

    κ^{1 + c·m_k} P_k + (1 − κ^{1 + c·m_k}) P_mixed

and κ is known, or found with θ (Tanaka et al. 2021, arXiv:2006.16223). c is 2 if flips cost nothing, else the
ratio of the gates of Q and A.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from qdreamer.quantum.circuits.backend import Backend, run
from qdreamer.quantum.circuits.grover import GroverTask, Oracle

CELLS = 16  # of the first grid, to a half period of the highest power's likelihood
ZOOM = 17  # points of each finer grid
ROUNDS = 10  # each makes the cell eight times smaller
DECAYS = torch.cat([torch.zeros(1), torch.logspace(-4, 0, 41)]).double()  # −ln κ that are tried first
CHUNK = 2**22  # numbers of a grid at a time


@dataclass(frozen=True)
class Schedule:
    """Powers m_k of Grover's iteration, shots N of each, and what Q loses as a multiple of A (c)."""

    powers: tuple[int, ...]
    shots: int
    loss: float = 2.0

    @classmethod
    def doubling(cls, last: int, shots: int) -> "Schedule":
        """Return the powers 0, 1, 2, 4 … 2^(last − 1): `last` + 1 circuits."""
        return cls((0, *(2**k for k in range(last))), shots)

    @property
    def calls(self) -> int:
        """Uses of A or A†."""
        return self.shots * sum(2 * m + 1 for m in self.powers)

    @property
    def turns(self) -> Tensor:
        """Return 2m + 1 (K,), float64."""
        return 2.0 * torch.tensor(self.powers, dtype=torch.float64) + 1.0

    @property
    def losses(self) -> Tensor:
        """Return 1 + c·m (K,), float64: the exponents of κ."""
        return self.loss * torch.tensor(self.powers, dtype=torch.float64) + 1.0


class Estimate(NamedTuple):
    """Probabilities a (R,) of what is good, their standard errors by Fisher's information, and κ (R,)."""

    probability: Tensor
    error: Tensor
    coherence: Tensor


def good_probability(angle: Tensor, schedule: Schedule, coherence: Tensor, mixed: float) -> Tensor:
    """Return P_k (…, K) of θ (…) and κ (…)."""
    kept = coherence[..., None] ** schedule.losses
    return kept * torch.sin(schedule.turns * angle[..., None]).square() + (1.0 - kept) * mixed


def measure(backend: Backend, oracle: Oracle, schedule: Schedule, seed: int) -> Tensor:
    """Run all powers in one job; return how often each was good, hits (R, K), float64."""
    tasks = [GroverTask(oracle, power) for power in schedule.powers]
    bits = run(backend, tasks, schedule.shots, seed).bits
    return torch.stack([oracle.good(found).double().sum(1) for found in bits], 1)


def estimate(hits: Tensor, schedule: Schedule, mixed: float = 0.5, coherence: float | None = 1.0) -> Estimate:
    """Return the most likely a of hits (R, K).

    Args:
        mixed: share of basis states that are good (`Oracle.mixed`).
        coherence: κ in (0, 1]; None finds it beside θ.
    """
    if coherence is not None:
        decay = torch.full((len(hits),), -math.log(coherence), dtype=torch.float64)
        angle, _ = _best_angle(hits, schedule, mixed, decay)
    else:
        best = torch.full((len(hits),), -torch.inf, dtype=torch.float64)
        angle, decay = torch.zeros_like(best), torch.zeros_like(best)
        for tried in DECAYS:
            found, value = _best_angle(hits, schedule, mixed, tried.expand(len(hits)), rounds=2)
            better = value > best
            best = torch.where(better, value, best)
            angle, decay = torch.where(better, found, angle), torch.where(better, tried, decay)
        angle, decay = _refined(hits, schedule, mixed, angle, decay)
    kept = torch.exp(-decay)
    information = fisher_information(angle, schedule, mixed, kept, known=coherence is not None)
    error = torch.sin(2 * angle).abs() / information.sqrt()  # da = sin 2θ dθ
    # Near a = 0 and 1, where sin 2θ is 0, the likelihood falls as exp(−a Σ N (2m + 1)²).
    least = 1 / (schedule.shots * (kept[:, None] ** schedule.losses * schedule.turns.square()).sum(1))
    return Estimate(torch.sin(angle).square(), torch.fmax(error, least), kept)


def fisher_information(
    angle: Tensor, schedule: Schedule, mixed: float, coherence: Tensor, known: bool = True
) -> Tensor:
    """Return the information about θ (R,) in all shots, Σ N (dP/dθ)²/(P(1 − P)), of θ and κ (R,).

    Where κ is not `known`, what finding it takes is left out (the Schur complement).
    """
    p = good_probability(angle, schedule, coherence, mixed).clamp(1e-12, 1 - 1e-12)  # (R, K)
    turns, kept = schedule.turns, coherence[:, None] ** schedule.losses
    weight = schedule.shots / (p * (1 - p))
    slope = kept * turns * torch.sin(2 * turns * angle[:, None])
    information = (weight * slope.square()).sum(1)
    if known:
        return information
    fading = schedule.losses * kept * (torch.sin(turns * angle[:, None]).square() - mixed)  # dP/d ln κ
    joint, own = (weight * slope * fading).sum(1), (weight * fading.square()).sum(1)
    return (information - joint.square() / own.clamp_min(1e-300)).clamp_min(0.0)


def _log_likelihood(hits: Tensor, schedule: Schedule, mixed: float, angle: Tensor, decay: Tensor) -> Tensor:
    """Return (R, G) of hits (R, K), angles θ and −ln κ that broadcast to (R, G)."""
    out = torch.zeros(torch.broadcast_shapes(angle.shape, decay.shape, (len(hits), 1)), dtype=torch.float64)
    for k, (turns, losses) in enumerate(zip(schedule.turns, schedule.losses, strict=True)):
        kept = torch.exp(-decay * losses)
        p = kept * torch.sin(turns * angle).square() + (1 - kept) * mixed
        p = p.clamp(1e-12, 1 - 1e-12)
        out += hits[:, k, None] * p.log() + (schedule.shots - hits[:, k, None]) * (1 - p).log()
    return out


def _best_angle(
    hits: Tensor, schedule: Schedule, mixed: float, decay: Tensor, rounds: int = ROUNDS
) -> tuple[Tensor, Tensor]:
    """Return θ (R,) in [0, π/2] of the highest likelihood at −ln κ (R,), and its logarithm."""
    points = CELLS * int(schedule.turns.max()) + 1
    grid = torch.linspace(0, math.pi / 2, points, dtype=torch.float64)[None]
    rows = max(1, CHUNK // points)
    best = [
        _log_likelihood(part, schedule, mixed, grid, d[:, None]).argmax(1)
        for part, d in zip(hits.split(rows), decay.split(rows), strict=True)
    ]
    return _nearby(hits, schedule, mixed, grid[0, torch.cat(best)], decay, rounds)


def _nearby(
    hits: Tensor, schedule: Schedule, mixed: float, angle: Tensor, decay: Tensor, rounds: int
) -> tuple[Tensor, Tensor]:
    """Return θ (R,) of the highest likelihood within a cell of the grid around others, and its logarithm."""
    cell = math.pi / 2 / (CELLS * int(schedule.turns.max()))
    value = torch.empty_like(angle)
    steps = torch.linspace(-1, 1, ZOOM, dtype=torch.float64)
    for _ in range(rounds):
        tried = (angle[:, None] + cell * steps).clamp(0, math.pi / 2)  # (R, Z)
        value, at = _log_likelihood(hits, schedule, mixed, tried, decay[:, None]).max(1)
        angle = tried.gather(1, at[:, None])[:, 0]
        cell *= 2 / (ZOOM - 1)
    return angle, value


def _refined(
    hits: Tensor, schedule: Schedule, mixed: float, angle: Tensor, decay: Tensor
) -> tuple[Tensor, Tensor]:
    """Return θ and −ln κ (R,) by ever finer grids of −ln κ, each with the best θ near the last."""
    steps = torch.linspace(-1, 1, ZOOM, dtype=torch.float64)
    width = 0.26 * decay + 1e-4  # neighbours in DECAYS
    many = hits.repeat_interleave(ZOOM, 0)
    for _ in range(ROUNDS):
        tried = (decay[:, None] + width[:, None] * steps).clamp(min=0.0)  # (R, Z)
        near = angle.repeat_interleave(ZOOM)
        angles, values = _nearby(many, schedule, mixed, near, tried.flatten(), ROUNDS)
        at = values.view_as(tried).argmax(1, keepdim=True)
        angle, decay = angles.view_as(tried).gather(1, at)[:, 0], tried.gather(1, at)[:, 0]
        width = 0.5 * width
    return angle, decay

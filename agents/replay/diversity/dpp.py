"""Batches drawn by a k-determinantal process (Kulesza & Taskar 2011): alike candidates repel each other.

    P(S) = det(L_S) / Σ_{|S′| = k} det(L_S′)

L is a kernel of the candidates' features. It is sampled exactly: k eigenvectors of L first, then the
projection process of these, whose circuit is `quantum.circuits.slater`'s.
"""

from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from qdreamer.agents.replay.diversity.features import JITTER, Floats, likeness
from qdreamer.agents.replay.diversity.selection import SELECTIONS, RandomSelection

Ints = NDArray[np.int64]


@SELECTIONS.register("dpp")
class Determinantal(RandomSelection):
    """Takes a sample of the k-determinantal process of the candidates' mean latents.

    Each that is taken weighs k/(M·π), π its probability to be taken: so a mean over the batch stays an
    unbiased estimate, whatever is alike.
    """

    @classmethod
    def make(cls, config: Any, seed: int) -> Self:
        return cls(config.candidates, seed)

    def select(
        self, stoch: NDArray[np.uint8], known: NDArray[np.bool_], weights: NDArray[np.float32], count: int
    ) -> tuple[Ints, Floats]:
        spectrum = decompose(likeness(stoch, known), count)
        taken = sample(choose_vectors(spectrum, count, self._random), self._random)
        return taken, count / (len(stoch) * inclusion(spectrum)[taken])


class Spectrum(NamedTuple):
    """What all samples of one kernel have in common."""

    vectors: Floats  # (M, M), eigenvectors in columns
    before: Floats  # (M + 1, k + 1), logarithms of e_j of the first n eigenvalues
    chosen: Floats  # (M,), the probability that an eigenvector is among the k
    values: Floats  # (M,), logarithms of the eigenvalues


def decompose(kernel: Floats, k: int) -> Spectrum:
    """Return what samples of k need. Raises ValueError for more than there are candidates."""
    count = len(kernel)
    if not 1 <= k <= count:
        raise ValueError(f"{k} of {count} candidates cannot be chosen")
    values, vectors = np.linalg.eigh(kernel)
    values = np.log(np.maximum(values, JITTER * JITTER))
    before, after = polynomials(values, k), polynomials(values[::-1], k)[::-1]
    # e_{k−1} of all others: of those before n times those behind it, over all ways to share k − 1.
    shares = before[:-1, :k] + after[1:, k - 1 :: -1][:, :k]
    others = np.logaddexp.reduce(shares, axis=1)
    return Spectrum(vectors, before, np.exp(values + others - before[-1, k]), values)


def polynomials(values: Floats, k: int) -> Floats:
    """Return log e_j of the first n of M values, given by their logarithms; (M + 1, k + 1)."""
    found = np.full((len(values) + 1, k + 1), -np.inf)
    found[:, 0] = 0.0
    for n, value in enumerate(values):
        found[n + 1, 1:] = np.logaddexp(found[n, 1:], value + found[n, :-1])
    return found


def inclusion(spectrum: Spectrum) -> Floats:
    """Return the probability of each candidate to be in the sample, (M,); they add up to k."""
    return np.square(spectrum.vectors) @ spectrum.chosen


def choose_vectors(spectrum: Spectrum, k: int, random: np.random.Generator) -> Floats:
    """Draw k of the eigenvectors, (M, k)."""
    picked, left, coins = [], k, np.log(random.random(len(spectrum.values)))
    for n in range(len(spectrum.values), 0, -1):
        share = spectrum.values[n - 1] + spectrum.before[n - 1, left - 1] - spectrum.before[n, left]
        if left and coins[n - 1] <= share:
            picked.append(n - 1)
            left -= 1
    return spectrum.vectors[:, picked]


def sample(vectors: Floats, random: np.random.Generator) -> Ints:
    """Draw S (k,) with probability det(V_S)², for orthonormal columns V (M, k)."""
    count, k = vectors.shape
    rest = np.square(vectors).sum(1)  # squared lengths of what is left of each row
    removed = np.zeros((count, k))
    subset = np.zeros(k, np.int64)
    for j in range(k):
        ends = np.maximum(rest, 0.0).cumsum()
        i = subset[j] = min(int(ends.searchsorted(random.random() * ends[-1], side="right")), count - 1)
        direction = (vectors @ vectors[i] - removed[:, :j] @ removed[i, :j]) / np.sqrt(rest[i])
        removed[:, j] = direction
        rest = rest - np.square(direction)
        rest[subset[: j + 1]] = 0.0
    return subset

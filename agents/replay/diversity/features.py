"""How alike candidates are, by the latents that their last visit left in replay."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
JITTER = 1e-6  # of the kernel's diagonal: as many independent directions as candidates


def likeness(stoch: NDArray[np.uint8], known: NDArray[np.bool_]) -> Floats:
    """Return the kernel of mean latents (M, T, S); what nobody has seen yet is unlike everything; (M, M)."""
    found = kernel(mean_latents(stoch))
    strangers = np.flatnonzero(~known)
    found[strangers], found[:, strangers] = 0.0, 0.0
    found[strangers, strangers] = 1.0 + JITTER
    return found


def mean_latents(stoch: NDArray[np.uint8]) -> Floats:
    """Return how often each class of each latent variable comes in T steps: (M, T, S) → (M, S·K)."""
    (count, steps, variables), classes = stoch.shape, int(stoch.max()) + 1
    place = np.arange(count)[:, None, None] * variables + np.arange(variables)  # (M, 1, S)
    found = np.bincount((place * classes + stoch).ravel(), minlength=count * variables * classes)
    return found.reshape(count, -1) / steps


def kernel(features: Floats) -> Floats:
    """Return exp(−|x_i − x_j|²/(2 s²)) of features (M, F), s² their mean squared distance; (M, M)."""
    squares = np.square(features).sum(1)
    distance = np.maximum(squares[:, None] + squares - 2.0 * features @ features.T, 0.0)
    scale = distance.sum() / max(len(features) * (len(features) - 1), 1)
    return np.exp(-0.5 * distance / max(scale, 1e-12)) + JITTER * np.eye(len(features))

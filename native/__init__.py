"""Kernels in C for a CPU behind one door: `native.NAME(…)` runs C where it can and torch elsewhere."""

from qdreamer.native.dispatch import KERNELS, Kernel, fits, on, use, without
from qdreamer.native.gru import GRUWeights
from qdreamer.native.laprop import laprop
from qdreamer.native.norm_silu import Activations, Layer, mlp, mlp_from_activations, norm_silu
from qdreamer.native.scan import PosteriorWeights, scan
from qdreamer.native.two_hot import BinDistribution, two_hot

__all__ = [
    "KERNELS",
    "Activations",
    "BinDistribution",
    "GRUWeights",
    "Kernel",
    "Layer",
    "PosteriorWeights",
    "fits",
    "laprop",
    "mlp",
    "mlp_from_activations",
    "norm_silu",
    "on",
    "scan",
    "two_hot",
    "use",
    "without",
]

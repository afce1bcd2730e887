"""Kernels in C for a CPU behind one door: `native.NAME(…)` runs C where it can and torch elsewhere."""

from qdreamer.native.dispatch import KERNELS, fits, on, use, without
from qdreamer.native.filter import Filtered, FilterInputs, FilterWeights, Reading, Recurrence, filter_step
from qdreamer.native.futures import FutureBlocks, FutureLayer, MemoryRollout, Past, TransformerRollout
from qdreamer.native.laprop import laprop
from qdreamer.native.mlp import mlp, mlp_from_activations
from qdreamer.native.rollout import (
    ActorWeights,
    GRURollout,
    HeadWeights,
    RolloutLoop,
    RolloutWeights,
    rollout,
)
from qdreamer.native.scan import PosteriorWeights, ScanInputs, ScanWeights, scan
from qdreamer.native.structs import ActionWeights, Activations, Affine, GRUWeights, Layer
from qdreamer.native.transformer_block import AttentionForm, BlockWeights, Sight, transformer_block
from qdreamer.native.two_hot import two_hot

__all__ = [
    "KERNELS",
    "ActionWeights",
    "Activations",
    "ActorWeights",
    "Affine",
    "AttentionForm",
    "BlockWeights",
    "FilterInputs",
    "FilterWeights",
    "Filtered",
    "FutureBlocks",
    "FutureLayer",
    "GRURollout",
    "GRUWeights",
    "HeadWeights",
    "Layer",
    "MemoryRollout",
    "Past",
    "PosteriorWeights",
    "Reading",
    "Recurrence",
    "RolloutLoop",
    "RolloutWeights",
    "ScanInputs",
    "ScanWeights",
    "Sight",
    "TransformerRollout",
    "filter_step",
    "fits",
    "laprop",
    "mlp",
    "mlp_from_activations",
    "on",
    "rollout",
    "scan",
    "transformer_block",
    "two_hot",
    "use",
    "without",
]

"""Heads to attend with, and every kind of attention."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from qdreamer.worldmodel.attention.config import make_kind
from qdreamer.worldmodel.attention.kernel import AttentionKernel

HEADS, WIDTH = 2, 6
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "softmax": ("softmax", {}),
    "coherent": ("coherent", {}),
    "coherent-noise": ("coherent", {"noise": 0.3}),
    "uniform": ("uniform", {}),
    "random-keys": ("random_keys", {}),
    "born": ("born", {}),
    "born-complex": ("born", {"complex": True}),
    "born-noise": ("born", {"noise": 0.3}),
    **{
        f"sampled-{strategy}": ("sampled", {"strategy": strategy, "draws": 4, "top": 2})
        for strategy in ("importance", "stratified", "systematic", "adaptive", "topk_rest", "control")
    },
}
NAMES = list(SETTINGS)
DIFFERENTIABLE = [name for name in NAMES if not name.startswith("sampled")]


def build(
    name: str, heads: int = HEADS, width: int = WIDTH, dtype: torch.dtype = torch.float64
) -> AttentionKernel:
    """The kind called `name`, photon numbers and all other parameters spread."""
    base, settings = SETTINGS[name]
    kind = make_kind(base, heads, width, **settings)
    generator = torch.Generator().manual_seed(0)
    for parameter in kind.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return kind.to(dtype)


@pytest.fixture(scope="session")
def make() -> Callable[..., AttentionKernel]:
    return build


@pytest.fixture(scope="session")
def heads_of() -> Callable[..., tuple[Tensor, ...]]:
    """`heads_of(seed, N, …)` → random q, k, v (B, h, N, ·)."""

    def make(
        seed: int,
        steps: int,
        batch: int = 2,
        heads: int = HEADS,
        width: int = WIDTH,
        values: int = 5,
        dtype: torch.dtype = torch.float64,
    ) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(seed)
        return tuple(
            torch.randn(batch, heads, steps, d, generator=generator, dtype=torch.float64).to(dtype)
            for d in (width, width, values)
        )

    return make

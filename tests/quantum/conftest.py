"""Fixtures for circuits and samples."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from qdreamer.configs.schema import build
from qdreamer.quantum.circuits.backend import BACKENDS
from qdreamer.quantum.config import QuantumConfig
from qdreamer.quantum.qaoa.ising import Ising, from_qubo

CONFIGS = Path(__file__).parents[2] / "configs" / "quantum"


def read_config(choice: str, /, **changes: Any) -> QuantumConfig:
    """configs/quantum/<choice>.yaml with changes; `noise` changes entries of its section."""
    values = yaml.safe_load((CONFIGS / "statevector.yaml").read_text())
    values |= yaml.safe_load((CONFIGS / f"{choice}.yaml").read_text())
    values.pop("defaults", None)
    values["noise"] |= changes.pop("noise", {})
    values |= changes
    return build(BACKENDS[values["name"]].config, values)


@pytest.fixture(scope="session")
def quantum_config() -> Callable[..., QuantumConfig]:
    return read_config


@pytest.fixture(scope="session")
def random_ising() -> Callable[..., Ising]:
    """Dense problems: normal couplings and fields."""

    def make(n: int, seed: int) -> Ising:
        generator = torch.Generator().manual_seed(seed)
        return from_qubo(torch.randn(n, n, generator=generator, dtype=torch.float64), 0.5)

    return make


@pytest.fixture(scope="session")
def draws_p(chi_square_p) -> Callable[[Any, Any], float]:
    """p-value that indices (S,) were drawn from P(x): bins of few expected draws are merged, and one
    draw of an impossible index is enough to fail."""

    def p_value(index: torch.Tensor, probs: torch.Tensor) -> float:
        counts = torch.bincount(index, minlength=len(probs)).double()
        if counts[probs <= 1e-12].any():
            return 0.0
        probs = probs.double()
        order = probs.argsort()
        expected = probs[order].cumsum(0) * len(index)
        # Merge the rarest indices until each bin expects ten draws.
        bins, edge = [0], 0.0
        for k, total in enumerate(expected.tolist()):
            if total - edge >= 10 and expected[-1] - total >= 10:
                bins.append(k + 1)
                edge = total
        bins.append(len(probs))
        parts = [slice(a, b) for a, b in itertools.pairwise(bins)]
        merged = [float(counts[order][part].sum()) for part in parts]
        weights = [float(probs[order][part].sum()) for part in parts]
        return 1.0 if len(parts) == 1 else chi_square_p(merged, weights)

    return p_value

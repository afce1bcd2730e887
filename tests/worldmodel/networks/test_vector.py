"""Scaling of observations: right moments, exact inverse, no loss of precision."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qdreamer.worldmodel.networks.vector import LINEAR, Standardize, Symlog


def fed(data: torch.Tensor, batches: int, memory: int = 1000) -> Standardize:
    scale = Standardize(data.shape[-1], memory=memory)
    for part in data.chunk(batches):
        scale.update(part.unsqueeze(0), lambda rows: rows)
    return scale


@given(offset=st.sampled_from([0.0, 1.0, -30.0, 1e3, 1e5]), spread=st.sampled_from([0.01, 1.0, 20.0]))
def test_moments_are_those_of_all_data(offset: float, spread: float) -> None:
    """Equal batches within the memory give the plain mean and deviation, also far from zero."""
    noise = np.random.default_rng(0).normal(size=(600, 3))
    data = torch.from_numpy(offset + spread * noise).float()
    scale = fed(data, 10)
    exact = data.double()
    rounding = 1e-5 * abs(offset)
    torch.testing.assert_close(scale.mean.double(), exact.mean(0), rtol=1e-4, atol=rounding + 1e-4 * spread)
    torch.testing.assert_close(
        scale.deviation().double(), exact.std(0, correction=0), rtol=1e-3, atol=rounding + 1e-6
    )


def test_recent_data_replace_the_old() -> None:
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(400, 2, generator=generator)
    data[200:] = 5.0 + 3.0 * data[200:]
    scale = fed(data, 40, memory=4)
    assert (scale.mean - 5.0).abs().max() < 1.5
    assert (scale.deviation() - 3.0).abs().max() < 1.0


@pytest.mark.parametrize("scale", [fed(torch.randn(50, 4) * 3.0 + 2.0, 5), Symlog(), Standardize(4)])
def test_inverse(scale: Standardize | Symlog) -> None:
    observation = torch.randn(7, 4) * 10.0
    torch.testing.assert_close(scale.invert(scale(observation)), observation, rtol=1e-4, atol=1e-4)


def test_linear_near_the_mean_and_tame_far_out() -> None:
    scale = Standardize(1)
    near = scale(torch.tensor([0.1])).item()
    assert near == pytest.approx(LINEAR * math.log1p(0.1 / LINEAR), rel=1e-6)
    assert near == pytest.approx(0.1, rel=0.01)
    assert scale(torch.tensor([5.0])).item() > 4.0  # five deviations are hardly pressed together
    assert scale(torch.tensor([1e4])).item() < 100.0


def test_constant_entries_are_no_division_by_zero() -> None:
    scale = fed(torch.full((20, 2), 7.0), 4)
    assert torch.isfinite(scale(torch.tensor([[7.0, 8.0]]))).all()
    assert scale(torch.tensor([7.0, 7.0])).abs().max() < 1e-2

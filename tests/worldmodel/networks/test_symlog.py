"""symlog and symexp."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qdreamer.worldmodel.networks.heads import symexp, symlog


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_golden_values():
    e = math.e
    x = double(0.0, 1.0, e - 1, -(e**2 - 1), 999.0)
    y = double(0.0, 0.6931471805599453, 1.0, -2.0, 6.907755278982137)  # ln 2, ln 1000
    torch.testing.assert_close(symlog(x), y, rtol=1e-14, atol=0)
    torch.testing.assert_close(symexp(y), x, rtol=1e-13, atol=0)


def test_identity_around_zero_in_single_precision():
    x = torch.tensor([1e-8, -1e-8, 3e-10])
    torch.testing.assert_close(symlog(x), x, rtol=1e-6, atol=0)
    torch.testing.assert_close(symexp(x), x, rtol=1e-6, atol=0)


@given(st.floats(-1e8, 1e8, allow_subnormal=False))
def test_inverse(value):
    x = double(value)
    assert symexp(symlog(x)).item() == pytest.approx(value, rel=1e-13, abs=0)


@given(st.floats(-20, 20, allow_subnormal=False))
def test_inverse_from_the_other_side(value):
    y = double(value)
    assert symlog(symexp(y)).item() == pytest.approx(value, rel=1e-13, abs=0)


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_odd_and_monotonic(a, b):
    low, high = symlog(double(min(a, b), max(a, b)))
    assert low <= high
    assert torch.equal(symlog(double(-a)), -symlog(double(a)))

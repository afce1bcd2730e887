"""Which implementation of a kernel runs."""

import pytest
import torch

from qdreamer import native
from qdreamer.native.dispatch import Kernel

pytestmark = pytest.mark.usefixtures("compiled")


def make_kernel():
    return Kernel("test", lambda x: "torch", lambda x: "C", native.fits)


def test_c_runs_where_it_is_wanted_and_knows_the_arguments():
    kernel, x = make_kernel(), torch.zeros(2, 3)
    assert kernel(x) == "torch"
    native.use(True)
    assert native.on()
    assert kernel(x) == "C"
    assert kernel(x.double()) == kernel(x.t()) == kernel(x.to("meta")) == "torch"
    native.use(False)
    assert kernel(x) == "torch"


def test_kernels_are_switched_off_one_by_one():
    kernel, x = make_kernel(), torch.zeros(2, 3)
    native.use(True)
    with native.without("test"):
        with native.without("another"):
            assert kernel(x) == "torch"
        assert kernel(x) == "torch"
    with native.without("another"):
        assert kernel(x) == "C"
    assert kernel(x) == "C"
    with pytest.raises(KeyError), native.without("test"):
        raise KeyError
    assert kernel(x) == "C"
